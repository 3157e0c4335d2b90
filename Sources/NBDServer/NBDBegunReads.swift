import BlockCore
import Synchronization

// Reads that the now face has begun and that wait for the medium.
//
// The medium works on all of them already, so a thread for each would only be woken once for each.
// Instead they queue, and one thread of the pool waits for up to `readsPerWaiter` of them: when the
// oldest is there, most others are as well, and are sent with it. What is begun meanwhile queues
// behind and wakes nobody.

/// The begun reads of one connection, and how many tasks wait for them.
final class NBDBegunReads: Sendable {
    /// More would have early answers wait for late ones; fewer would wake more threads.
    static let readsPerWaiter = 8

    private struct State {
        var queue: [NBDLaterRequest] = []
        var waiters = 0
    }

    private let state = HostMutex(State())

    /// Queues `read`. True if the caller must start one more waiter.
    func append(_ read: NBDLaterRequest) -> Bool {
        state.withLock { state in
            state.queue.append(read)
            guard state.queue.count > state.waiters * Self.readsPerWaiter else { return false }
            state.waiters += 1
            return true
        }
    }

    /// The oldest read, for a waiter; with nil the waiter must end.
    func next() -> NBDLaterRequest? {
        state.withLock { state in
            guard !state.queue.isEmpty else {
                state.waiters -= 1
                return nil
            }
            return state.queue.removeFirst()
        }
    }
}

extension NBDSession {
    /// How many reads a waiter answers before it lets others have its thread.
    private static let readsPerTurn = 64

    /// Answers `read`, which the now face has begun, when it is there. Its credits must have been
    /// taken.
    func startBegun(_ read: NBDLaterRequest) {
        guard begunReads.append(read) else { return }
        Task(executorPreference: IOPool.guest) { [self] in await waitForBegunReads() }
    }

    private func waitForBegunReads() async {
        var replies: [NBDReply] = []
        var answered = 0
        while let read = begunReads.next() {
            var read = read
            let reply: NBDReply
            if let now = replyNow(to: &read) {
                reply = now
            } else {
                // What is there must not wait for what is not.
                if !replies.isEmpty { channel.post(replies) }
                replies.removeAll(keepingCapacity: true)
                reply = await self.reply(to: read)
            }
            replies.append(reply)
            answered += 1
            if answered % Self.readsPerTurn == 0 {
                channel.post(replies)
                replies.removeAll(keepingCapacity: true)
                await Task.yield()
            }
        }
        if !replies.isEmpty { channel.post(replies) }
    }
}

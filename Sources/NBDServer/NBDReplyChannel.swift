import BlockCore
import Glibc

// Who may send on a connection's socket.
//
// Three parties have something to send: the connection's thread (what it answered itself), the
// threads of the pool (what was handed to them), and the connection's writer, a thread that is
// started when it is first needed. A message must not be torn apart by another, so one party at a
// time owns the sending side. The lock is held only to change hands, never while sending:
//
//   connection's thread   waits for ownership, sends and may wait for the client;
//   pool's thread         puts its reply into the queue; if nobody owns the sending side it takes
//                         ownership and sends without waiting. What the socket does not take goes
//                         back to the queue, and ownership to the writer;
//   writer                sends the queue and may wait for the client.
//
// Whoever gives ownership up first sends what has come into the queue meanwhile, so the queue is
// empty whenever nobody owns the sending side. So a client that does not read holds up two threads
// of its own and none of the pool's; the queue is bounded by the connection's credits.

/// The sending side of a connection.
final class NBDReplyChannel: Sendable {
    private enum Owner { case nobody, connection, pool, writer }

    private struct State {
        var owner = Owner.nobody
        var queue = NBDReplyBatch([])
        var isBroken = false
        var isEnding = false
        var hasWriter = false
    }

    private let state = Monitor(State())
    private let socket: NBDSocket
    private let credits: NBDCredits
    private let threadName: String

    init(_ socket: NBDSocket, _ credits: NBDCredits, threadName: String) {
        self.socket = socket
        self.credits = credits
        self.threadName = threadName
    }

    /// Sends `head`, then `payload`, waiting for the client as long as it takes; false if it is
    /// gone. For the connection's own thread.
    func send(_ head: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer? = nil) -> Bool {
        let mayOwn = state.wait { state -> Bool? in
            if state.isBroken { return false }
            guard state.owner == .nobody else { return nil }
            state.owner = .connection
            return true
        }
        guard mayOwn else { return false }
        if !sendAll(head, payload) { markBroken() }
        return drain(as: .connection)
    }

    /// Sends `replies`, now or as soon as the client reads; never waits. Dropped if the client is
    /// gone. The requests' credits are given back when they are sent or dropped.
    func post(_ replies: [NBDReply]) {
        let mustDrain = state.withLock { state in
            state.queue.append(replies)
            guard state.owner == .nobody else { return false }
            state.owner = .pool
            return true
        }
        if mustDrain { drain(as: .pool) }
    }

    /// Ends the writer, and waits for that. Nothing may be in flight or follow.
    func end() {
        state.update { $0.isEnding = true }
        state.wait { $0.hasWriter ? nil : () }
    }

    // Sends the queue until it is empty, then gives ownership up. False if the client is gone.
    @discardableResult
    private func drain(as owner: Owner) -> Bool {
        while var batch = takeQueue() {
            var sent: [NBDReply] = []
            let result = batch.send(on: socket, mayWait: owner != .pool, sent: &sent)
            giveCredits(sent)
            switch result {
            case .broken: markBroken()
            case .bytes, .wouldBlock: break
            }
            if !batch.replies.isEmpty { putBack(batch, toWriter: result == .wouldBlock) }
            if result == .wouldBlock { return true }
        }
        return state.withLock { !$0.isBroken }
    }

    // The queue, for its owner to send; nil, and ownership is given up, if there is nothing to.
    private func takeQueue() -> NBDReplyBatch? {
        let (queue, isBroken) = state.update { state in
            let queue = state.queue
            state.queue = NBDReplyBatch([])
            if queue.replies.isEmpty || state.isBroken { state.owner = .nobody }
            return (queue, state.isBroken)
        }
        if isBroken { giveCredits(queue.replies) }
        return isBroken || queue.replies.isEmpty ? nil : queue
    }

    // What came into the queue meanwhile goes after the rest of `batch`.
    private func putBack(_ batch: NBDReplyBatch, toWriter: Bool) {
        let mustStart = state.update { state in
            var rest = batch
            rest.append(state.queue.replies)
            state.queue = rest
            guard toWriter else { return false }
            state.owner = .writer
            defer { state.hasWriter = true }
            return !state.hasWriter
        }
        guard mustStart else { return }
        do throws(BlockError) {
            try HostThread.tryStart(name: threadName) { [self] in write() }
        } catch {
            // Nobody is left to wait for this client.
            state.update { state in
                state.hasWriter = false
                state.owner = .pool
            }
            markBroken()
            drain(as: .pool)
        }
    }

    private func write() {
        while true {
            let hasWork = state.wait { state -> Bool? in
                if state.owner == .writer { return true }
                return state.isEnding ? false : nil
            }
            guard hasWork else { break }
            drain(as: .writer)
        }
        state.update { $0.hasWriter = false }
    }

    private func markBroken() {
        state.update { $0.isBroken = true }
        socket.shutdownAll()
    }

    private func giveCredits(_ replies: [NBDReply]) {
        guard !replies.isEmpty else { return }
        credits.give(
            requests: replies.count, bytes: replies.reduce(0) { $0 + $1.creditBytes })
    }

    private func sendAll(
        _ head: UnsafeRawBufferPointer, _ payload: UnsafeRawBufferPointer?
    ) -> Bool {
        withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
            var skipped = 0
            let total = head.count + (payload?.count ?? 0)
            while skipped < total {
                var count = 0
                var offset = skipped
                for part in [head, payload ?? .init(start: nil, count: 0)] {
                    if offset < part.count {
                        vectors[count] = iovec(
                            iov_base: UnsafeMutableRawPointer(mutating: part.baseAddress! + offset),
                            iov_len: part.count - offset)
                        count += 1
                        offset = 0
                    } else {
                        offset -= part.count
                    }
                }
                guard
                    case .bytes(let sent) = socket.send(
                        .init(rebasing: vectors[..<count]), mayWait: true)
                else { return false }
                skipped += sent
            }
            return true
        }
    }
}

internal import Synchronization

// What a client has not read yet. Whoever has something for the client appends it and goes on:
// nobody waits for a client, so that a slow one holds up neither jobs nor other clients. What
// this can cost is bounded: a client that leaves more than the limit unread is dropped. A single
// message may be longer than the limit; it is refused only if others are waiting already.

/// The messages on their way to one client.
final class QMPOutbox: Sendable {
    private struct State {
        var messages: [[UInt8]] = []
        var bytes = 0
        var isClosed = false
    }

    /// Yields after something was appended, and ends after `finish` or an overflow.
    let wakeups: AsyncStream<Void>

    private let state = Mutex(State())
    private let wake: AsyncStream<Void>.Continuation
    private let bytesMax: Int
    private let onOverflow: @Sendable () -> Void

    /// An outbox that calls `onOverflow` once if the client leaves too much unread.
    init(bytesMax: Int, onOverflow: @escaping @Sendable () -> Void) {
        (wakeups, wake) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        self.bytesMax = bytesMax
        self.onOverflow = onOverflow
    }

    /// Queues the bytes of one message; without effect after the end.
    func append(_ message: [UInt8]) {
        let overflows = state.withLock { state in
            if state.isClosed { return false }
            if state.bytes > 0 && state.bytes + message.count > bytesMax {
                state = State(isClosed: true)
                return true
            }
            state.messages.append(message)
            state.bytes += message.count
            return false
        }
        if overflows {
            wake.finish()
            onOverflow()
        } else {
            wake.yield()
        }
    }

    /// The oldest messages, joined up to about 64 KiB; nil if there are none.
    func take() -> [UInt8]? {
        state.withLock { state in
            var batch: [UInt8] = []
            var count = 0
            while count < state.messages.count, batch.count < 64 << 10 {
                batch += state.messages[count]
                count += 1
            }
            state.messages.removeFirst(count)
            state.bytes -= batch.count
            return count == 0 ? nil : batch
        }
    }

    /// Lets what is queued go out, and nothing after it.
    func finish() {
        state.withLock { $0.isClosed = true }
        wake.finish()
    }
}

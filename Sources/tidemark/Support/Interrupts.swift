import Dispatch
import Glibc

/// Ctrl-C as a stream instead of a sudden death.
enum Interrupts {
    /// `@unchecked Sendable` is true because a dispatch source may be cancelled from any thread
    /// and nothing else is done with it.
    private struct Source: @unchecked Sendable {
        let signal: any DispatchSourceSignal
    }

    /// Yields for every SIGINT, which no longer ends the process while the stream is read.
    static func stream() -> AsyncStream<Void> {
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        signal(SIGINT, SIG_IGN)
        let source = Source(
            signal: DispatchSource.makeSignalSource(signal: SIGINT, queue: .global()))
        source.signal.setEventHandler { continuation.yield() }
        continuation.onTermination = { _ in
            source.signal.cancel()
            signal(SIGINT, SIG_DFL)
        }
        source.signal.activate()
        return stream
    }
}

import BlockCore
import Control
import Logging
import NBDServer

/// Tells of guests' requests that failed: each has its error, and whoever looks after the host gets
/// an event and a line in the log, at most one a second for an export.
///
/// A failure ends nothing. A guest whose disk has no room left may try again when there is some.
final class GuestFailures: Sendable {
    private static let interval = Duration.seconds(1)

    private let volumeName: String
    private let events: QMPEventHub
    private let log: Logger
    private let last = HostMutex<ContinuousClock.Instant?>(nil)

    init(volumeName: String, events: QMPEventHub, log: Logger) {
        self.volumeName = volumeName
        self.events = events
        self.log = log
    }

    /// Sends BLOCK_IO_ERROR unless one was sent a moment ago.
    func report(_ failure: NBDRequestFailure) {
        let now = ContinuousClock.now
        let isDue = last.withLock { last in
            if let last, now - last < Self.interval { return false }
            last = now
            return true
        }
        guard isDue else { return }
        let operation = failure.isWrite ? "write" : "read"
        log.warning("a guest's \(operation) of volume \(volumeName) failed: \(failure.reason)")
        events.broadcast(
            QMPEvent(
                .blockIOError,
                BlockIOErrorData(
                    device: volumeName, operation: operation,
                    nospace: failure.isNoSpace ? true : nil, reason: failure.reason)))
    }
}

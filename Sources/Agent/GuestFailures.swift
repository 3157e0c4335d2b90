import BlockCore
import Control
import NBDServer

/// Tells of guests' requests that failed: each has its error, and whoever looks after the host gets
/// an event, at most one a second for an export.
///
/// A failure ends nothing. A guest whose disk has no room left may try again when there is some.
final class GuestFailures: Sendable {
    private static let interval = Duration.seconds(1)

    private let volumeName: String
    private let events: QMPEventHub
    private let last = HostMutex<ContinuousClock.Instant?>(nil)

    init(volumeName: String, events: QMPEventHub) {
        self.volumeName = volumeName
        self.events = events
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
        events.broadcast(
            QMPEvent(
                .blockIOError,
                BlockIOErrorData(
                    device: volumeName, operation: failure.isWrite ? "write" : "read",
                    nospace: failure.isNoSpace ? true : nil, reason: failure.reason)))
    }
}

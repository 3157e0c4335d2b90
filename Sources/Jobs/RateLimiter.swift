import BlockCore
import Synchronization

/// Spreads a job's copying over time. It concerns the job alone, never a guest.
final class RateLimiter: Sendable {
    private let bytesPerSecond: UInt64
    private let next = Mutex(ContinuousClock.now)

    /// No limit if `bytesPerSecond` is 0.
    init(bytesPerSecond: UInt64) {
        self.bytesPerSecond = bytesPerSecond
    }

    /// Returns when the job may copy `bytes` more; throws `cancelled` if its task was cancelled.
    func admit(_ bytes: UInt64) async throws(BlockError) {
        guard bytesPerSecond > 0 else { return }
        let start = next.withLock { next in
            let start = max(next, ContinuousClock.now)
            next = start + .seconds(Double(bytes) / Double(bytesPerSecond))
            return start
        }
        do {
            try await Task.sleep(until: start, clock: .continuous)
        } catch {
            throw BlockError(.cancelled, "copy", on: "the job")
        }
    }
}

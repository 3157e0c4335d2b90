import BlockCore
import Synchronization
import Volumes

/// Holds the requests of a job up where they would be in guests' way (`IdlePolicy`).
final class IdlePace: Sendable {
    private static let tick = Duration.milliseconds(100)
    private static let pause = Duration.milliseconds(10)

    private struct State {
        var policy: IdlePolicy
        var inFlightCount = 0
        /// Whether nothing was in flight since the tick began.
        var isAtRest = false
        var tickStart = ContinuousClock.now
        var seen: GuestLoad.Total
    }

    private let load: GuestLoad
    private let state: Mutex<State>

    init(_ load: GuestLoad, countMax: Int) {
        self.load = load
        state = Mutex(State(policy: IdlePolicy(countMax: countMax), seen: load.total))
    }

    /// Returns when a request may begin; `end` follows. It is a pause point.
    func begin(_ job: Job) async throws(BlockError) {
        while true {
            try await job.pausePoint()
            if tryBegin() { return }
            do { try await Task.sleep(for: Self.pause) } catch { try job.checkCancelled() }
        }
    }

    func end() { state.withLock { $0.inFlightCount -= 1 } }

    private func tryBegin() -> Bool {
        let total = load.total
        return state.withLock { state in
            let now = ContinuousClock.now
            if now - state.tickStart >= Self.tick {
                state.policy.tick(
                    GuestTick(since: state.seen, until: total, duration: now - state.tickStart),
                    isAtRest: state.isAtRest)
                state.tickStart = now
                state.seen = total
                state.isAtRest = state.inFlightCount == 0
            }
            guard state.inFlightCount < state.policy.allowedCount else { return false }
            state.inFlightCount += 1
            state.isAtRest = false
            return true
        }
    }
}

extension GuestTick {
    /// What came between two looks. Guests that wait and were not answered at all have waited for
    /// the whole of it.
    fileprivate init(
        since first: GuestLoad.Total, until last: GuestLoad.Total, duration: Duration
    ) {
        requestCount = last.requestCount - first.requestCount
        seconds = last.seconds - first.seconds
        guard requestCount == 0, last.waitingCount > 0 else { return }
        requestCount = last.waitingCount
        seconds = duration / .seconds(1) * Double(requestCount)
    }
}

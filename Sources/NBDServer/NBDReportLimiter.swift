import Synchronization

/// Keeps clients from filling a log: of many reports in a short time, it passes some on, and later
/// how many there were besides.
final class NBDReportLimiter: Sendable {
    private struct State {
        var periodEnd = ContinuousClock.now
        var passed = 0
        var withheld = 0
    }

    private static let period = Duration.seconds(10)
    private static let reportsMax = 20

    private let state = Mutex(State())

    /// Hands `text` to `receiver`, or counts it.
    func report(_ text: String, to receiver: (String) -> Void) {
        let (passes, missed) = state.withLock { state in
            let now = ContinuousClock.now
            var missed = 0
            if now >= state.periodEnd {
                missed = state.withheld
                state = State(periodEnd: now + Self.period)
            }
            state.passed += 1
            guard state.passed > Self.reportsMax else { return (true, missed) }
            state.withheld += 1
            return (false, missed)
        }
        if missed > 0 { receiver("\(missed) more such reports were left out") }
        if passes { receiver(text) }
    }
}

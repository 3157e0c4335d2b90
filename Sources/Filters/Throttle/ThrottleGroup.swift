import BlockCore

// Several nodes can share a group; together they get what it allows.
//
// Each limit is a bucket that leaks at the average rate. A request is poured into every bucket that
// concerns it at once, and then waits until what was in them before has leaked down to what a burst
// may leave. Since a request counts from the moment of its arrival, those behind it wait for it too:
// requests go in the order in which they came, and nobody has to keep a queue.

/// Limits that one or several nodes share.
package final class ThrottleGroup: Sendable {
    package let name: String

    fileprivate struct State: Sendable {
        var limits: ThrottleLimits
        var buckets: [ThrottleLimits.Kind: LeakyBucket] = [:]
        var leakedAt = ContinuousClock.now

        mutating func leak() {
            let now = ContinuousClock.now
            let seconds = (now - leakedAt) / .seconds(1)
            leakedAt = now
            for kind in buckets.keys { buckets[kind]?.leak(for: seconds) }
        }
    }

    private let state: HostMutex<State>

    package init(name: String, limits: ThrottleLimits) {
        self.name = name
        state = HostMutex(State(limits: limits, buckets: Self.buckets(limits)))
    }

    package var limits: ThrottleLimits { state.withLock { $0.limits } }

    /// Waits until a request of `bytes` may go on.
    func admit(_ bytes: UInt64, isWrite: Bool) async {
        let seconds = state.withLock { state in
            state.leak()
            return state.pour(bytes, isWrite: isWrite)
        }
        guard seconds > 0 else { return }
        // A task that is given up has its requests fail or end elsewhere.
        try? await Task.sleep(for: .seconds(seconds))
    }

    /// Whether a request of `bytes` may go on at once; only then it counts.
    func tryAdmit(_ bytes: UInt64, isWrite: Bool) -> Bool {
        state.withLock { state in
            state.leak()
            guard state.delaySeconds(isWrite: isWrite) == 0 else { return false }
            _ = state.pour(bytes, isWrite: isWrite)
            return true
        }
    }

    /// Takes back what `tryAdmit` counted.
    func giveBack(_ bytes: UInt64, isWrite: Bool) {
        state.withLock { state in
            for kind in ThrottleLimits.Kind.allCases where kind.concerns(isWrite: isWrite) {
                let units = state.limits.units(of: bytes, kind)
                state.buckets[kind]?.scoop(units)
            }
        }
    }

    private static func buckets(
        _ limits: ThrottleLimits
    ) -> [ThrottleLimits.Kind: LeakyBucket] {
        limits.limits.filter { $0.value.average > 0 }.mapValues { LeakyBucket(limit: $0) }
    }
}

extension ThrottleGroup.State {
    /// Counts a request, and returns for how long it has to wait for those before it.
    fileprivate mutating func pour(_ bytes: UInt64, isWrite: Bool) -> Double {
        let seconds = delaySeconds(isWrite: isWrite)
        for kind in ThrottleLimits.Kind.allCases where kind.concerns(isWrite: isWrite) {
            buckets[kind]?.pour(limits.units(of: bytes, kind))
        }
        return seconds
    }

    fileprivate func delaySeconds(isWrite: Bool) -> Double {
        ThrottleLimits.Kind.allCases.filter { $0.concerns(isWrite: isWrite) }
            .compactMap { buckets[$0]?.delaySeconds }.max() ?? 0
    }
}

/// One limit at work.
private struct LeakyBucket: Sendable {
    let limit: ThrottleLimits.Limit
    private var level = 0.0
    /// How much of a burst longer than a second is over its own rate.
    private var burstLevel = 0.0

    init(limit: ThrottleLimits.Limit) { self.limit = limit }

    private var isLongBurst: Bool { limit.burst > 0 && limit.burstSeconds > 1 }

    mutating func leak(for seconds: Double) {
        level = max(0, level - Double(limit.average) * seconds)
        if isLongBurst { burstLevel = max(0, burstLevel - Double(limit.burst) * seconds) }
    }

    mutating func pour(_ units: Double) {
        level += units
        if isLongBurst { burstLevel += units }
    }

    mutating func scoop(_ units: Double) {
        level = max(0, level - units)
        if isLongBurst { burstLevel = max(0, burstLevel - units) }
    }

    /// For how long what comes now has to wait. Without a burst rate a tenth of a second's worth may
    /// come at once.
    var delaySeconds: Double {
        let room =
            limit.burst > 0
            ? Double(limit.burst) * Double(limit.burstSeconds) : Double(limit.average) / 10
        if level > room { return (level - room) / Double(limit.average) }
        guard isLongBurst, burstLevel > Double(limit.burst) / 10 else { return 0 }
        return (burstLevel - Double(limit.burst) / 10) / Double(limit.burst)
    }
}

import BlockCore

/// Where a point waits that may have to wait for others.
struct PointGates: Sendable {
    /// It has all its data, and is to be published or not.
    let publishing = CommitGate()
    /// It has been published, and is to stand, or to be taken back.
    let standing = CommitGate()
}

/// Where a point waits until it is said whether it is to go on.
final class CommitGate: Sendable {
    private struct State {
        /// Whether the point is there, or has ended before.
        var isReached = false
        var isHeld = false
        var isOpen: Bool?
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private let state = HostMutex(State())

    /// Waits here until it is said what is to become of the point; throws if it is not to go on.
    func pass() async throws(BlockError) {
        change { state in
            state.isReached = true
            state.isHeld = true
        }
        await wait { $0.isOpen != nil }
        guard state.withLock({ $0.isOpen }) == true else {
            throw BlockError(.cancelled, "publish the point", on: "the job")
        }
    }

    /// Whether the point has come here.
    var isHeld: Bool { state.withLock(\.isHeld) }

    /// Says that the point is here, or will never be.
    func reach() { change { $0.isReached = true } }

    func waitUntilReached() async { await wait { $0.isReached } }

    /// Lets the point go on, or not; the first word counts.
    func decide(_ isOpen: Bool) { change { $0.isOpen = $0.isOpen ?? isOpen } }

    private func change(_ body: (inout State) -> Void) {
        let waiting = state.withLock { state in
            body(&state)
            defer { state.waiting = [] }
            return state.waiting
        }
        for one in waiting { one.resume() }
    }

    private func wait(for isOver: (State) -> Bool) async {
        while true {
            if state.withLock({ isOver($0) }) { return }
            await withCheckedContinuation { continuation in
                let isLate = state.withLock { state in
                    if isOver(state) { return true }
                    state.waiting.append(continuation)
                    return false
                }
                if isLate { continuation.resume() }
            }
        }
    }
}

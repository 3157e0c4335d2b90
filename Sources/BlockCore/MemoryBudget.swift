import Synchronization

// One bound on what the agent holds in memory besides its code, its threads and the bits of its
// bitmaps. Whoever wants memory that could grow with the load asks first. What a refusal means is
// each asker's own matter, so that the bound is kept without a guest's write failing for it:
//
//   requests   a connection waits, and reads no further request meanwhile; each has a small share
//              of its own outside of this bound
//   fleeces    old data goes to the local file instead of memory
//   caches     a table takes the place of another of the same image, whose least is not counted
//   jobs       a worker waits; a job that has nothing in flight is always given its first piece
//
// Nobody waits while holding a lock, and nobody who waits holds what another waits for but pieces
// that are being copied, which come back. So there is always somebody who can go on.

/// The memory that the parts of the agent share.
package final class MemoryBudget: Sendable {
    /// What memory is used for.
    package enum Use: Int, CaseIterable, Sendable {
        case requests, fleeces, caches, jobs
    }

    fileprivate struct State {
        var limitBytes: UInt64
        var usedBytes: UInt64 = 0
        var byUse: [UInt64] = Array(repeating: 0, count: Use.allCases.count)
        var waiting: [Waiting] = []
    }

    fileprivate struct Waiting {
        let bytes: UInt64
        let use: Use
        let continuation: CheckedContinuation<Void, Never>
    }

    /// What everything in the process shares unless it has a reason not to.
    package static let shared = MemoryBudget(limitBytes: defaultLimitBytes)
    /// The limit unless somebody sets another.
    package static let defaultLimitBytes: UInt64 = 1 << 30
    /// What the agent cannot work well below.
    package static let leastLimitBytes: UInt64 = 64 << 20

    private let state: HostMutex<State>

    package init(limitBytes: UInt64) {
        state = HostMutex(State(limitBytes: limitBytes))
    }

    /// All that may be taken. A lower limit takes nothing away from those that have.
    package var limitBytes: UInt64 {
        get { state.withLock(\.limitBytes) }
        set {
            state.withLock { $0.limitBytes = newValue }
            wake()
        }
    }

    /// What is taken at the moment, by use.
    package var usedBytes: [Use: UInt64] {
        let byUse = state.withLock(\.byUse)
        return Dictionary(uniqueKeysWithValues: Use.allCases.map { ($0, byUse[$0.rawValue]) })
    }

    /// How many wait at the moment.
    package var waitingCount: Int { state.withLock { $0.waiting.count } }

    /// Takes `bytes` if they are free, without waiting. Those that wait come first.
    package func tryTake(_ bytes: UInt64, for use: Use) -> Bool {
        state.withLock { state in
            guard state.waiting.isEmpty, state.has(bytes) else { return false }
            state.add(bytes, to: use)
            return true
        }
    }

    /// Takes `bytes` whether or not they are free: what its taker cannot do without.
    package func take(_ bytes: UInt64, for use: Use) {
        state.withLock { $0.add(bytes, to: use) }
    }

    /// Takes `bytes` as soon as they are free, in the order of asking. More than the limit is
    /// granted when nothing else is taken for that use.
    package func wait(for bytes: UInt64, for use: Use) async {
        if tryTake(bytes, for: use) { return }
        await withCheckedContinuation { continuation in
            state.withLock {
                $0.waiting.append(Waiting(bytes: bytes, use: use, continuation: continuation))
            }
            wake()
        }
    }

    /// Gives back what was taken.
    package func give(_ bytes: UInt64, for use: Use) {
        state.withLock { state in
            precondition(state.byUse[use.rawValue] >= bytes, "more memory given back than taken")
            state.usedBytes -= bytes
            state.byUse[use.rawValue] -= bytes
        }
        wake()
    }

    private func wake() {
        let granted = state.withLock { state in
            var granted: [Waiting] = []
            while let first = state.waiting.first, state.has(first.bytes) || state.isFirst(first) {
                state.add(first.bytes, to: first.use)
                granted.append(state.waiting.removeFirst())
            }
            return granted
        }
        for waiting in granted { waiting.continuation.resume() }
    }
}

extension MemoryBudget.State {
    fileprivate func has(_ bytes: UInt64) -> Bool {
        usedBytes + bytes <= limitBytes
    }

    /// Whether its use has nothing yet, so that refusing could stop it for ever.
    fileprivate func isFirst(_ waiting: MemoryBudget.Waiting) -> Bool {
        byUse[waiting.use.rawValue] == 0
    }

    fileprivate mutating func add(_ bytes: UInt64, to use: MemoryBudget.Use) {
        usedBytes += bytes
        byUse[use.rawValue] += bytes
    }
}

import BlockCore
import Synchronization
import Volumes

// A job that is gentle stores little at a time, one after the other, with a rest after each: a write
// to a file keeps other writes to it waiting, and the copying takes a processor. After some of that it
// waits until the medium has it: what is only in the page cache counts against guests, whose writes
// the system holds up when there is too much of it.

/// Holds the requests of a job up where they would be in guests' way (`IdlePolicy`).
final class IdlePace: Sendable {
    private static let tick = Duration.milliseconds(100)
    private static let pause = Duration.milliseconds(10)
    /// What is stored at a time while guests are there.
    private static let gentlePartBytes: UInt64 = 128 << 10
    /// How much longer it rests than it took to store a part.
    private static let restFactor = 3
    /// How much of what was stored the medium may not have.
    private static let unflushedBytesMax: UInt64 = 32 << 20

    private struct State {
        var policy: IdlePolicy
        var inFlightCount = 0
        /// Whether nothing was in flight since the tick began.
        var isAtRest = false
        var tickStart = ContinuousClock.now
        var seen: GuestLoad.Total
    }

    private let load: GuestLoad
    private let gate = AsyncLock()
    /// Used with the gate held.
    private let unflushedBytes = Atomic<UInt64>(0)
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

    /// Stores `range` by calls of `store` with its parts, which begin and end on multiples of
    /// `unitBytes`, and of `flush`.
    func store(
        _ range: ByteRange, unitBytes: UInt64,
        flush: () async throws(BlockError) -> Void,
        _ store: (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError) {
        let partBytes = max(Self.gentlePartBytes, unitBytes)
        var position = range.offset
        while position < range.end {
            guard isGentle else {
                return try await store(ByteRange(offset: position, end: range.end))
            }
            let end = min((position + partBytes).alignedDown(to: partBytes), range.end)
            let part = ByteRange(offset: position, end: end)
            try await gate.withLock { () async throws(BlockError) in
                let start = ContinuousClock.now
                try await store(part)
                let left = unflushedBytes.add(part.lengthBytes, ordering: .relaxed).newValue
                if left > Self.unflushedBytesMax {
                    try await flush()
                    unflushedBytes.store(0, ordering: .relaxed)
                }
                // Cut short by whoever cancels the job, who is met at the next pause point.
                try? await Task.sleep(for: (ContinuousClock.now - start) * Self.restFactor)
            }
            position = end
        }
    }

    private var isGentle: Bool { state.withLock { $0.policy.isGentle } }

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
        promptCount = last.promptCount - first.promptCount
        requestCount = last.requestCount - first.requestCount
        seconds = last.seconds - first.seconds
        guard requestCount + promptCount == 0, last.waitingCount > 0 else { return }
        requestCount = last.waitingCount
        seconds = duration / .seconds(1) * Double(requestCount)
    }
}

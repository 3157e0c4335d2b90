package import BlockCore
import Synchronization

// How a backup keeps one instant of a volume while the guest goes on writing.
//
// Every granule of the point is *owed* at first. It stops being owed once, in one of two ways:
//
//   the job claims it   the job read the granule from the volume, and at the moment of the claim
//                       it was still owed: no write had begun, so what was read is the old data
//   a write keeps it    before a write touches the granule, the old content goes to the fleece,
//                       then the granule stops being owed; the job finds it in the fleece
//
// Both end in one test-and-clear of the granule's bit, so exactly one wins, and neither waits for
// the other: the guest never waits for the backup's target, only for a local read and, past the
// bound of memory, a local write. The content is in the fleece *before* the bit is cleared.
//
// If keeping fails (the fleece is full, the old data unreadable), the point is given up and the
// guest's write goes on: a backup can be repeated, a guest cannot.

/// The state of a volume at one instant, readable until the job is done with it.
package final class PointInTime: Sendable {
    /// The unit in which old content is kept.
    package let granuleBytes: UInt64
    package let lengthBytes: UInt64

    private struct State {
        var owed: [UInt64]
        /// Granules kept that were all zeroes: they need no room in the fleece.
        var keptZero: [UInt64]
        var failure: BlockError?
        var worstWriteDelay = Duration.zero
        var keptBytes: UInt64 = 0

        func isOwed(_ granule: UInt64) -> Bool {
            owed[Int(granule >> 6)] & (1 << (granule & 63)) != 0
        }

        func isKeptZero(_ granule: UInt64) -> Bool {
            keptZero[Int(granule >> 6)] & (1 << (granule & 63)) != 0
        }

        /// Keeps a granule as zeroes if it is still owed.
        mutating func keepZero(_ granule: UInt64) {
            if clearOwed(granule) { keptZero[Int(granule >> 6)] |= 1 << (granule & 63) }
        }

        /// Returns whether it was owed.
        @discardableResult
        mutating func clearOwed(_ granule: UInt64) -> Bool {
            let wasOwed = isOwed(granule)
            owed[Int(granule >> 6)] &= ~(1 << (granule & 63))
            return wasOwed
        }
    }

    private let state: Mutex<State>
    private let fleece: Fleece
    private let source: any BlockDevice
    private let keeping = RangeLock()

    /// A point of `source` with the ranges of `owed` in it; every range is rounded outward.
    init(
        source: any BlockDevice, lengthBytes: UInt64, granuleBytes: UInt64,
        limits: FleeceLimits, owed ranges: some Sequence<ByteRange>
    ) {
        self.source = source
        self.lengthBytes = lengthBytes
        self.granuleBytes = granuleBytes
        let granuleCount = (lengthBytes + granuleBytes - 1) / granuleBytes
        let wordCount = Int((granuleCount + 63) / 64)
        var owed = [UInt64](repeating: 0, count: wordCount)
        for range in ranges where !range.isEmpty {
            owed.setBits(range.offset / granuleBytes...(range.end - 1) / granuleBytes)
        }
        state = Mutex(State(owed: owed, keptZero: [UInt64](repeating: 0, count: wordCount)))
        fleece = Fleece(granuleBytes: granuleBytes, limits: limits)
    }

    /// The unit for a bitmap of that granularity: what the repository stores and digests together.
    package static func granuleBytes(forGranularity granularityBytes: UInt64) -> UInt64 {
        min(max(granularityBytes, 4 << 10), 1 << 20)
    }

    /// Why the point was given up, if it was.
    package var failure: BlockError? { state.withLock { $0.failure } }

    /// The longest that a write of the guest was held up to keep what it overwrites.
    package var worstWriteDelay: Duration { state.withLock { $0.worstWriteDelay } }

    /// How much old content writes have kept, zeroes not counted.
    package var keptBytes: UInt64 { state.withLock { $0.keptBytes } }

    /// Whether a write into `range` has nothing to keep. Never waits.
    func allowsWrite(_ range: ByteRange) -> Bool {
        state.withLock { state in
            guard state.failure == nil else { return true }
            return granules(of: range).allSatisfy { !state.isOwed($0) }
        }
    }

    /// Keeps what `range` still owes, so that a write into it may begin. Never fails for the
    /// caller: what cannot be kept gives the point up.
    func keep(_ range: ByteRange) async {
        guard !allowsWrite(range) else { return }
        let started = ContinuousClock.now
        defer {
            let delay = ContinuousClock.now - started
            state.withLock { $0.worstWriteDelay = max($0.worstWriteDelay, delay) }
        }
        let hold = await keeping.acquire(range.alignedOutward(to: granuleBytes))
        defer { keeping.release(hold) }
        do throws(BlockError) {
            try await keepZeroes(in: range)
            for granule in granules(of: range) where state.withLock({ $0.isOwed(granule) }) {
                try await keepGranule(granule)
            }
        } catch {
            giveUp(error)
        }
    }

    /// Reads `range`, which begins and ends on granules or at the volume's end, as it was at the
    /// point's instant, and releases it: each granule is read once.
    package func read(_ range: ByteRange, into destination: BufferSlice) async throws(BlockError) {
        if let failure { throw failure }
        try await source.read(at: range.offset, into: destination)
        try claim(range, into: destination.bytes)
    }

    /// Whether `range` reads as zeroes in the point without reading it, decided by the volume's
    /// map; if true, it is released. On false nothing changed.
    package func claimZeroes(_ range: ByteRange) async throws(BlockError) -> Bool {
        let extents = try await source.allExtents(in: range)
        guard extents.allSatisfy(\.isZero) else { return false }
        return state.withLock { state in
            guard state.failure == nil else { return false }
            let all = granules(of: range)
            guard all.allSatisfy({ state.isOwed($0) }) else { return false }
            for granule in all { state.clearOwed(granule) }
            return true
        }
    }

    /// Gives the point up: no write is held up for it any longer.
    package func giveUp(_ error: BlockError) {
        state.withLock { state in
            if state.failure == nil { state.failure = error }
        }
    }

    /// After the read: what is owed is claimed, what was kept meanwhile replaces what was read.
    private func claim(_ range: ByteRange, into bytes: UnsafeMutableRawBufferPointer)
        throws(BlockError)
    {
        for granule in granules(of: range) {
            let (isClaimed, isZero, failure) = state.withLock { state in
                (state.clearOwed(granule), state.isKeptZero(granule), state.failure)
            }
            if let failure { throw failure }
            if isClaimed || Mutant.copyWithoutClaim.isActive { continue }
            let part = self.range(ofGranule: granule)
            let offset = Int(part.offset - range.offset)
            let destination = UnsafeMutableRawBufferPointer(
                rebasing: bytes[offset..<offset + Int(part.lengthBytes)])
            if isZero {
                destination.initializeMemory(as: UInt8.self, repeating: 0)
            } else {
                try fleece.take(granule, into: destination)
            }
        }
    }

    /// A wide request (a discard, mostly) asks the map first: what it says is zero needs no copy.
    private func keepZeroes(in range: ByteRange) async throws(BlockError) {
        guard range.lengthBytes >= 16 * granuleBytes else { return }
        for extent in try await source.allExtents(in: range) where extent.isZero {
            let whole = extent.range.alignedInward(to: granuleBytes)
            state.withLock { state in
                for granule in granules(of: whole) { state.keepZero(granule) }
            }
        }
    }

    private func keepGranule(_ granule: UInt64) async throws(BlockError) {
        let part = range(ofGranule: granule)
        let content = BufferPool.shared.take(Int(granuleBytes)).prefix(Int(part.lengthBytes))
        if Mutant.settleBeforeKeeping.isActive { state.withLock { $0.keepZero(granule) } }
        try await source.read(at: part.offset, into: content)
        try fleece.store(content, granule: granule)
        let isFirst = state.withLock { state in
            state.keptBytes += part.lengthBytes
            return state.clearOwed(granule)
        }
        if !isFirst { fleece.drop(granule) }
    }

    private func granules(of range: ByteRange) -> Range<UInt64> {
        guard !range.isEmpty else { return 0..<0 }
        return (range.offset / granuleBytes)..<((range.end - 1) / granuleBytes + 1)
    }

    private func range(ofGranule granule: UInt64) -> ByteRange {
        ByteRange(
            offset: granule * granuleBytes, end: min((granule + 1) * granuleBytes, lengthBytes))
    }
}

extension [UInt64] {
    /// Sets the bits of `range`, whole words at a time.
    fileprivate mutating func setBits(_ range: ClosedRange<UInt64>) {
        let first = Int(range.lowerBound >> 6)
        let last = Int(range.upperBound >> 6)
        let head = UInt64.max << (range.lowerBound & 63)
        let tail = UInt64.max >> (63 - (range.upperBound & 63))
        if first == last {
            self[first] |= head & tail
            return
        }
        self[first] |= head
        for index in first + 1..<last { self[index] = .max }
        self[last] |= tail
    }
}

package import BlockCore
import Synchronization

// How a backup keeps one instant of a volume while the guest goes on writing.
//
// Every granule of the point is *owed* at first. It stops being owed once, in one of two ways:
//
//   the job claims it   the job read the granule from the volume, and at the moment of the claim
//                       it was still owed: no write had begun in what was not kept, so what was
//                       read there is the old data
//   writes keep it      before a write touches a block of the granule, the block's old content goes
//                       to the fleece; the job finds it there, and with the last block the granule
//                       stops being owed
//
// Claim and keeping are each one step under a lock, so one comes first, and neither waits for the
// other: the guest never waits for the backup's target, only for a local read and, past the bound of
// memory, a local write. The content is in the fleece *before* the block counts as kept.
//
// If keeping fails (the fleece is full, the old data unreadable), the point is given up and the
// guest's write goes on: a backup can be repeated, a guest cannot.

/// The state of a volume at one instant, readable until the job is done with it.
package final class PointInTime: Sendable {
    /// The unit in which a job takes content.
    package let granuleBytes: UInt64
    package let lengthBytes: UInt64

    struct State: Sendable {
        var granules: OwedGranules
        var failure: BlockError?
        var worstWriteDelay = Duration.zero
        var keptBytes: UInt64 = 0
        /// Of granules, the blocks whose old content a mover has taken to its target.
        var moved = SpreadTable<UInt64>()
        /// The granules of which a mover has something to take; nil if there is none.
        var arrivals: [UInt64]?

        /// The first run of `blocks` that a write must keep before it may begin.
        func firstOwed(of blocks: Range<UInt64>) -> Range<UInt64>? {
            failure == nil ? granules.firstOwed(of: blocks) : nil
        }
    }

    let state: HostMutex<State>
    let fleece: Fleece
    let source: any BlockDevice
    /// Writes that keep a part of the same block do so one after the other.
    let keeping = RangeLock()
    /// The unit in which old content is kept.
    let blockBytes: UInt64

    /// A point of `source` with the ranges of `owed` in it; every range is rounded outward.
    package init(
        source: any BlockDevice, lengthBytes: UInt64, granuleBytes: UInt64,
        limits: FleeceLimits, owed ranges: some Sequence<ByteRange>
    ) {
        self.source = source
        self.lengthBytes = lengthBytes
        self.granuleBytes = granuleBytes
        let granules = OwedGranules(
            lengthBytes: lengthBytes, granuleBytes: granuleBytes, owed: ranges)
        blockBytes = granules.blockBytes
        state = HostMutex(State(granules: granules))
        fleece = Fleece(blockBytes: granules.blockBytes, limits: limits)
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

    /// Reads `range`, which begins and ends on granules or at the volume's end, as it was at the
    /// point's instant, and releases it: each granule is read once. If the source cannot be read,
    /// `retry` either throws, or returns to have it tried again.
    package func read(
        _ range: ByteRange, into destination: BufferSlice,
        retry: (BlockError) async throws(BlockError) -> Void = { (error) throws(BlockError) in
            throw error
        }
    ) async throws(BlockError) {
        while true {
            if let failure { throw failure }
            do throws(BlockError) {
                try await source.read(at: range.offset, into: destination)
                break
            } catch {
                try await retry(error)
            }
        }
        try claim(range, into: destination.bytes)
    }

    /// Whether `range` reads as zeroes in the point without reading it, decided by the volume's
    /// map; if true, it is released. On false nothing changed.
    package func claimZeroes(_ range: ByteRange) async throws(BlockError) -> Bool {
        let extents = try await source.allExtents(in: range)
        guard extents.allSatisfy(\.isZero) else { return false }
        return state.withLock { state in
            guard state.failure == nil else { return false }
            let all = state.granules.granules(of: range)
            guard all.allSatisfy({ state.granules.isUntouched($0) }) else { return false }
            for granule in all { _ = state.granules.claim(granule) }
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
        var position = range.offset
        while position < range.end {
            let granule = position / granuleBytes
            let (part, block, claim) = try state.withLock { (state) throws(BlockError) in
                if let failure = state.failure { throw failure }
                return (
                    state.granules.range(ofGranule: granule),
                    state.granules.firstBlock(of: granule), state.granules.claim(granule)
                )
            }
            position = part.end
            if Mutant.copyWithoutClaim.isActive { continue }
            let content = UnsafeMutableRawBufferPointer(
                rebasing: bytes[Int(part.offset - range.offset)..<Int(part.end - range.offset)])
            if claim.isZero { content.initializeMemory(as: UInt8.self, repeating: 0) }
            try restore(claim.kept, of: block, into: content)
        }
    }

    /// Puts the blocks of a granule that were kept, `kept`, where its content is.
    private func restore(
        _ kept: UInt64, of firstBlock: UInt64, into content: UnsafeMutableRawBufferPointer
    ) throws(BlockError) {
        var left = kept
        while left != 0 {
            // The lowest block that is left begins what was kept together.
            let index = left.trailingZeroBitCount
            let start = index * Int(blockBytes)
            let count = try fleece.take(
                firstBlock + UInt64(index),
                into: UnsafeMutableRawBufferPointer(rebasing: content[start...]))
            for block in index..<index + count { left &= ~(1 << UInt64(block)) }
        }
    }
}

package import BlockCore
import Synchronization

// Memory: a table of pointers to chunks of 32768 granules. A chunk is allocated when its first
// bit is set and kept until the bitmap goes, so a region that was never dirty costs one pointer
// and readers need no lock. Two threads that both miss a chunk both allocate one; the one whose
// exchange fails frees its own.
//
// Marks, clears, searches and `takeDirtyChunks` may run at the same time on any threads. What a
// search finds while others change bits is true of each granule at some time during the call.
// Who must order a mark against a clear of the same granule holds a lock on the range: the bitmap
// has none.

/// Which granules of a node were written: one bit each.
///
/// `@unchecked Sendable` is true because every word that changes after `init` is atomic and the
/// memory that the table points to lives as long as the bitmap.
package final class DirtyBitmap: @unchecked Sendable {
    /// No bitmap is larger than this, in bytes of bits.
    package static let bitmapBytesMax: UInt64 = 512 << 20
    package static let granularityBytesMin: UInt64 = 512
    package static let granularityBytesMax: UInt64 = 2 << 30

    /// The length of the node in bytes, of no particular alignment.
    package let lengthBytes: UInt64
    /// The bytes that one bit stands for, a power of two.
    package let granularityBytes: UInt64
    /// The bits; the last one may stand for fewer bytes than the others.
    package let granuleCount: Int
    /// The chunks in which the bitmap is persisted are numbered from 0 up to this.
    package let chunkCount: Int

    private let shift: UInt64
    private let table: UnsafeMutablePointer<Atomic<UnsafeMutablePointer<ChunkBits.Word>?>>
    private let dirtyCount = Atomic<Int>(0)

    /// A bitmap with every granule clean.
    ///
    /// Throws `invalid` unless the granularity is a power of two from 512 bytes to 2 GiB that
    /// keeps the bitmap within 512 MiB.
    package init(lengthBytes: UInt64, granularityBytes: UInt64) throws(BlockError) {
        guard granularityBytes.isPowerOfTwo, granularityBytes >= Self.granularityBytesMin,
            granularityBytes <= Self.granularityBytesMax
        else {
            throw BlockError(
                .invalid, "make a dirty bitmap", on: "granularity \(granularityBytes)",
                detail: "it must be a power of two from 512 bytes to 2 GiB")
        }
        let granules =
            lengthBytes / granularityBytes + (lengthBytes % granularityBytes == 0 ? 0 : 1)
        guard granules <= Self.bitmapBytesMax * 8 else {
            throw BlockError(
                .invalid, "make a dirty bitmap", on: "granularity \(granularityBytes)",
                detail: "the bitmap of \(lengthBytes) bytes would be larger than 512 MiB; "
                    + "choose a larger granularity: \(Self.granularityBytesMin(for: lengthBytes))")
        }
        self.lengthBytes = lengthBytes
        self.granularityBytes = granularityBytes
        shift = UInt64(granularityBytes.trailingZeroBitCount)
        granuleCount = Int(granules)
        chunkCount = (granuleCount + BitmapChunk.granuleCount - 1) / BitmapChunk.granuleCount
        table = .allocate(capacity: chunkCount)
        for index in 0..<chunkCount { (table + index).initialize(to: Atomic(nil)) }
    }

    deinit {
        for index in 0..<chunkCount { chunk(index)?.deallocate() }
        table.deinitialize(count: chunkCount)
        table.deallocate()
    }

    /// The smallest granularity that keeps a bitmap of that length within its bound.
    private static func granularityBytesMin(for lengthBytes: UInt64) -> UInt64 {
        var granularityBytes = granularityBytesMin
        while granularityBytes < granularityBytesMax,
            (lengthBytes - 1) / granularityBytes >= bitmapBytesMax * 8
        { granularityBytes *= 2 }
        return granularityBytes
    }

    // MARK: Changing

    /// Marks every granule that `range` touches. What lies beyond the end is ignored.
    ///
    /// Takes about a nanosecond where the bits are set already, and never waits.
    package func mark(_ range: ByteRange) {
        let end = endInside(range)
        guard range.offset < end else { return }
        var first = Int(range.offset >> shift)
        let last = Int((end - 1) >> shift)
        if first == last, isDirty(granule: first) { return }
        while first <= last {
            let index = first / BitmapChunk.granuleCount
            let base = index * BitmapChunk.granuleCount
            let lastHere = min(last, base + BitmapChunk.granuleCount - 1)
            let added = allocatedChunk(index).set(first - base, lastHere - base)
            if added > 0 { dirtyCount.add(added, ordering: .relaxed) }
            first = lastHere + 1
        }
    }

    /// Marks every granule.
    package func markAll() { mark(ByteRange(offset: 0, lengthBytes: lengthBytes)) }

    /// Clears the granules that lie in `range` whole. The last granule of the bitmap counts as
    /// whole if the range reaches the end.
    package func clear(_ range: ByteRange) {
        let end = endInside(range)
        guard range.offset < end else { return }
        var first = Int(range.offset >> shift)
        if range.offset & (granularityBytes - 1) != 0 { first += 1 }
        let past = end == lengthBytes ? granuleCount : Int(end >> shift)
        while first < past {
            let index = first / BitmapChunk.granuleCount
            let base = index * BitmapChunk.granuleCount
            let pastHere = min(past, base + BitmapChunk.granuleCount)
            if let chunk = chunk(index) {
                let removed = chunk.clear(first - base, pastHere - 1 - base)
                if removed > 0 { dirtyCount.subtract(removed, ordering: .relaxed) }
            }
            first = pastHere
        }
    }

    /// Clears every granule.
    package func clearAll() { clear(ByteRange(offset: 0, lengthBytes: lengthBytes)) }

    // MARK: Asking

    /// Whether the granule that holds the byte at `offset` is dirty; false beyond the end.
    package func isDirty(at offset: UInt64) -> Bool {
        offset < lengthBytes && isDirty(granule: Int(offset >> shift))
    }

    /// How many granules are dirty.
    package var dirtyGranuleCount: Int {
        // A clear may be counted before the mark that it undid.
        max(0, dirtyCount.load(ordering: .relaxed))
    }

    /// The dirty granules times the granularity: QEMU's `count`, which is not cut at the end of
    /// the node and so may exceed its length.
    package var dirtyBytes: UInt64 { UInt64(dirtyGranuleCount) << shift }

    // MARK: For the other files of this class

    /// The chunk `index`, if a bit of it was ever set.
    @inline(__always)
    func chunk(_ index: Int) -> ChunkBits? {
        table[index].load(ordering: .acquiring).map(ChunkBits.init)
    }

    /// The chunk `index`, allocated if need be.
    @inline(__always)
    func allocatedChunk(_ index: Int) -> ChunkBits {
        chunk(index) ?? installChunk(index)
    }

    /// Counts granules that were set other than by `mark`.
    func countDirty(_ added: Int) { dirtyCount.add(added, ordering: .relaxed) }

    /// The end of `range`, at most the end of the node.
    func endInside(_ range: ByteRange) -> UInt64 {
        let (end, overflow) = range.offset.addingReportingOverflow(range.lengthBytes)
        return overflow ? lengthBytes : min(end, lengthBytes)
    }

    @inline(__always)
    private func isDirty(granule: Int) -> Bool {
        guard let chunk = chunk(granule / BitmapChunk.granuleCount) else { return false }
        let bit = granule % BitmapChunk.granuleCount
        return chunk.word(bit >> 6) & (1 << UInt64(bit & 63)) != 0
    }

    @inline(never)
    private func installChunk(_ index: Int) -> ChunkBits {
        let fresh = ChunkBits.allocate()
        let (exchanged, original) = table[index].compareExchange(
            expected: nil, desired: fresh.address, ordering: .acquiringAndReleasing)
        if exchanged { return fresh }
        fresh.deallocate()
        // The exchange failed because there is a chunk.
        return ChunkBits(address: original!)
    }
}

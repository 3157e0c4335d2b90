package import BlockCore

extension DirtyBitmap {
    /// The first dirty bytes at or after `offset`: from there, or from the start of the next dirty
    /// granule, up to the next clean granule, the end of the node or `lengthMax` bytes, whichever
    /// comes first. Nil if there are none.
    ///
    /// Regions that were never dirty are skipped 32768 granules at a time.
    package func nextDirtyRange(from offset: UInt64, lengthMax: UInt64 = .max) -> ByteRange? {
        guard offset < lengthBytes, lengthMax > 0 else { return nil }
        guard let first = nextGranule(from: granule(of: offset), isDirty: true) else { return nil }
        let start = max(offset, self.offset(of: first))
        let (limit, overflow) = start.addingReportingOverflow(lengthMax)
        let end = overflow ? lengthBytes : min(limit, lengthBytes)
        // From the next granule: a clear in between must not make the result empty.
        let past = nextGranule(from: first + 1, isDirty: false, before: granule(of: end - 1) + 1)
        return ByteRange(offset: start, end: min(end, past.map(self.offset(of:)) ?? end))
    }

    /// The longest run at the start of `range` whose granules are all dirty, or all clean. What
    /// lies beyond the end of the node is clean.
    package func nextRun(in range: ByteRange) -> (run: ByteRange, isDirty: Bool) {
        let end = endInside(range)
        guard range.offset < end else { return (range, false) }
        let isDirty = isDirty(at: range.offset)
        let other = nextGranule(
            from: granule(of: range.offset) + 1, isDirty: !isDirty, before: granule(of: end - 1) + 1
        )
        if let other {
            return (ByteRange(offset: range.offset, end: self.offset(of: other)), isDirty)
        }
        // A clean run goes on beyond the end of the node, a dirty one stops there.
        return (isDirty ? ByteRange(offset: range.offset, end: end) : range, isDirty)
    }

    /// The first granule at or after `start`, before `limit`, that is dirty (or clean).
    private func nextGranule(from start: Int, isDirty: Bool, before limit: Int? = nil) -> Int? {
        let limit = min(limit ?? granuleCount, granuleCount)
        let flip: UInt64 = isDirty ? 0 : ~0
        var granule = start
        while granule < limit {
            let index = granule / BitmapChunk.granuleCount
            let chunkEnd = min(limit, (index + 1) * BitmapChunk.granuleCount)
            guard let chunk = chunk(index) else {
                if !isDirty { return granule }
                granule = chunkEnd
                continue
            }
            while granule < chunkEnd {
                let word = chunk.word((granule >> 6) % ChunkBits.wordCount) ^ flip
                let rest = word >> UInt64(granule & 63)
                if rest != 0 {
                    let found = granule + rest.trailingZeroBitCount
                    return found < limit ? found : nil
                }
                granule = (granule | 63) + 1
            }
        }
        return nil
    }

    private func granule(of offset: UInt64) -> Int { Int(offset / granularityBytes) }

    private func offset(of granule: Int) -> UInt64 { UInt64(granule) * granularityBytes }
}

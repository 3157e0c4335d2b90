import BlockCore

// What is to be known of a point without taking anything of it: for its view, and for who moves what
// was kept elsewhere. Such a point has no job that claims granules.

/// What became of a granule.
struct GranuleLook {
    let range: ByteRange
    let firstBlock: UInt64
    /// Whether what was not kept is in the source still.
    let isOwed: Bool
    /// Whether what was not kept is zeroes.
    let isZero: Bool
    /// The blocks that were kept, a bit each, and those of them that are at the mover's target.
    let kept: UInt64
    let moved: UInt64

    var isUntouched: Bool { isOwed && kept == 0 }

    /// The runs of blocks in `part` whose bits are set in `mask`.
    func runs(of mask: UInt64, in part: ByteRange, _ blockBytes: UInt64) -> [ByteRange] {
        var runs: [ByteRange] = []
        var offset = part.offset
        while offset < part.end {
            let index = (offset - range.offset) / blockBytes
            let end = min(range.offset + (index + 1) * blockBytes, part.end)
            if mask & (1 << index) != 0 {
                if let last = runs.last, last.end == offset {
                    runs[runs.count - 1].lengthBytes += end - offset
                } else {
                    runs.append(ByteRange(offset: offset, end: end))
                }
            }
            offset = end
        }
        return runs
    }
}

extension PointInTime {
    /// The granules that `range` touches.
    func granules(of range: ByteRange) -> Range<UInt64> {
        state.withLock { $0.granules.granules(of: range) }
    }

    /// Whether all of `range` is in the source as it was.
    func isUntouched(_ range: ByteRange) -> Bool {
        state.withLock { state in
            state.failure == nil
                && state.granules.granules(of: range).allSatisfy { state.granules.isUntouched($0) }
        }
    }

    /// The runs of `range` by whether they are in the source as they were.
    func untouchedRuns(of range: ByteRange) -> [(range: ByteRange, isUntouched: Bool)] {
        state.withLock { state in
            var runs: [(range: ByteRange, isUntouched: Bool)] = []
            for granule in state.granules.granules(of: range) {
                let part = state.granules.range(ofGranule: granule).intersection(range)
                let isUntouched = state.failure == nil && state.granules.isUntouched(granule)
                if let last = runs.last, last.isUntouched == isUntouched {
                    runs[runs.count - 1].range.lengthBytes += part.lengthBytes
                } else {
                    runs.append((part, isUntouched))
                }
            }
            return runs
        }
    }

    /// Looks at a granule. Throws if the point was given up, or does not hold it.
    func look(at granule: UInt64) throws(BlockError) -> GranuleLook {
        try state.withLock { (state) throws(BlockError) in
            if let failure = state.failure { throw failure }
            let range = state.granules.range(ofGranule: granule)
            let found = state.granules.look(at: granule)
            guard found.isOwed || found.isZero || found.isWhole else {
                throw BlockError(
                    .unsupported, "read the point", on: source.nodeName, range: range,
                    detail: "it holds only what its bitmap had marked")
            }
            return GranuleLook(
                range: range, firstBlock: state.granules.firstBlock(of: granule),
                isOwed: found.isOwed, isZero: found.isZero, kept: found.kept,
                moved: state.moved[granule] ?? 0)
        }
    }

    /// Copies what of a granule is in the fleece to its place in `content`, which is as long as the
    /// granule; false if some of it is not there any more.
    func copyKept(_ found: GranuleLook, into content: BufferSlice) throws(BlockError) -> Bool {
        var left = found.kept & ~found.moved
        while left != 0 {
            // The lowest block that is left begins what was kept together.
            let index = left.trailingZeroBitCount
            let start = index * Int(blockBytes)
            let count = try fleece.copy(
                found.firstBlock + UInt64(index),
                into: UnsafeMutableRawBufferPointer(rebasing: content.bytes[start...]))
            guard let count else { return false }
            for block in index..<index + count { left &= ~(1 << UInt64(block)) }
        }
        return true
    }

    /// Has arrivals noted for a mover from now on.
    func noteArrivals() { state.withLock { $0.arrivals = $0.arrivals ?? [] } }

    /// A granule of which something was kept since it was last taken.
    func nextArrival() -> UInt64? { state.withLock { $0.arrivals?.popLast() } }

    /// Puts a granule back that could not be moved.
    func arriveAgain(_ granule: UInt64) { state.withLock { $0.arrivals?.append(granule) } }

    /// Says that `blocks` of a granule are at the mover's target, and forgets them here.
    func forget(_ blocks: UInt64, of found: GranuleLook) {
        let granule = found.range.offset / granuleBytes
        state.withLock { $0.moved[granule, default: 0] |= blocks }
        for index in 0..<64 as Range<UInt64> where blocks & (1 << index) != 0 {
            // Only those that begin a run are found.
            fleece.drop(found.firstBlock + index)
        }
    }
}

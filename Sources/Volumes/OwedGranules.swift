import BlockCore

// What a job still has to take of a point, and what writes have kept of it for the job.
//
// The job takes whole granules. A write keeps *blocks*, parts of a granule, and only those that it
// touches: a guest that writes 4 KiB here and there is held up by a copy of 4 KiB, not of a whole
// granule, and the fleece holds that much less.
//
//   owed, no block kept      nothing has been written there since the freeze
//   owed, some blocks kept   those are in the fleece, the rest is still in the volume
//   not owed, all kept       all of it is in the fleece
//   not owed, kept as zero   zeroes, but for the blocks that had been kept before
//   not owed                 the job has it

/// The granules of a point that are still owed, and the blocks of them that were kept.
struct OwedGranules: Sendable {
    /// What the job took of a granule, besides what it read.
    struct Claim {
        /// Whether what was not kept is in the volume still, or was when it was read.
        let isOwed: Bool
        /// Whether what was not kept is zeroes.
        let isZero: Bool
        /// The blocks that were kept, a bit each.
        let kept: UInt64
    }

    let granuleBytes: UInt64
    /// The unit in which old content is kept.
    let blockBytes: UInt64
    private let lengthBytes: UInt64
    private let blocksPerGranule: UInt64

    private var owed: [UInt64]
    private var keptZero: [UInt64]
    /// By granule, of those that no job has claimed.
    private var kept = SpreadTable<UInt64>()

    /// Every granule that one of `ranges` touches.
    init(lengthBytes: UInt64, granuleBytes: UInt64, owed ranges: some Sequence<ByteRange>) {
        self.lengthBytes = lengthBytes
        self.granuleBytes = granuleBytes
        blockBytes = max(4096, granuleBytes / 64)
        blocksPerGranule = granuleBytes / blockBytes
        let granuleCount = (lengthBytes + granuleBytes - 1) / granuleBytes
        let wordCount = Int((granuleCount + 63) / 64)
        owed = [UInt64](repeating: 0, count: wordCount)
        keptZero = [UInt64](repeating: 0, count: wordCount)
        for range in ranges where !range.isEmpty {
            owed.setBits(range.offset / granuleBytes...(range.end - 1) / granuleBytes)
        }
    }

    /// The granules that `range` touches.
    func granules(of range: ByteRange) -> Range<UInt64> { units(of: range, granuleBytes) }

    /// The blocks that `range` touches.
    func blocks(of range: ByteRange) -> Range<UInt64> { units(of: range, blockBytes) }

    /// The bytes of a granule, the last one of the volume maybe shorter.
    func range(ofGranule granule: UInt64) -> ByteRange {
        ByteRange(
            offset: granule * granuleBytes, end: min((granule + 1) * granuleBytes, lengthBytes))
    }

    /// The bytes of `blocks`, the last one of the volume maybe shorter.
    func range(ofBlocks blocks: Range<UInt64>) -> ByteRange {
        ByteRange(
            offset: blocks.lowerBound * blockBytes,
            end: min(blocks.upperBound * blockBytes, lengthBytes))
    }

    /// The first run of `blocks`, within one granule, that a write must keep before it may begin.
    func firstOwed(of blocks: Range<UInt64>) -> Range<UInt64>? {
        var block = blocks.lowerBound
        while block < blocks.upperBound {
            let granule = block / blocksPerGranule
            let end = min((granule + 1) * blocksPerGranule, blocks.upperBound)
            guard isOwed(granule) else {
                block = end
                continue
            }
            let mask = kept[granule] ?? 0
            while block < end, mask & bit(block) != 0 { block += 1 }
            guard block < end else { continue }
            var last = block
            while last < end, mask & bit(last) == 0 { last += 1 }
            return block..<last
        }
        return nil
    }

    /// Whether a write into `range` must keep something of it first.
    func owes(_ range: ByteRange) -> Bool { firstOwed(of: blocks(of: range)) != nil }

    /// Whether no write has kept anything of a granule that the job has not taken.
    func isUntouched(_ granule: UInt64) -> Bool { isOwed(granule) && kept[granule] == nil }

    /// What became of a granule that no job has claimed, for who only looks.
    struct Look {
        /// Whether what was not kept is in the source still.
        let isOwed: Bool
        /// Whether what was not kept is zeroes.
        let isZero: Bool
        /// The blocks that were kept, a bit each.
        let kept: UInt64
        /// Whether the granule is whole in these.
        let isWhole: Bool
    }

    /// Looks at a granule.
    func look(at granule: UInt64) -> Look {
        let mask = kept[granule] ?? 0
        return Look(
            isOwed: isOwed(granule),
            isZero: keptZero[Int(granule >> 6)] & (1 << (granule & 63)) != 0,
            kept: mask, isWhole: mask == wholeMask(granule))
    }

    /// Says that `blocks`, within one granule, are in the fleece; false, with nothing changed, if
    /// the job has taken the granule meanwhile.
    mutating func keep(_ blocks: Range<UInt64>) -> Bool {
        let granule = blocks.lowerBound / blocksPerGranule
        guard isOwed(granule) else { return false }
        var mask = kept[granule] ?? 0
        for block in blocks { mask |= bit(block) }
        kept[granule] = mask
        if mask == wholeMask(granule) { clearOwed(granule) }
        return true
    }

    /// Keeps what is still owed of a granule as zeroes.
    mutating func keepZeroes(_ granule: UInt64) {
        if clearOwed(granule) { keptZero[Int(granule >> 6)] |= 1 << (granule & 63) }
    }

    /// The job takes a granule, once.
    mutating func claim(_ granule: UInt64) -> Claim {
        let claim = Claim(
            isOwed: clearOwed(granule),
            isZero: keptZero[Int(granule >> 6)] & (1 << (granule & 63)) != 0,
            kept: kept.remove(granule) ?? 0)
        precondition(
            claim.isOwed || claim.isZero || claim.kept == wholeMask(granule),
            "granule \(granule) was given up without being kept")
        return claim
    }

    /// The first block of a granule.
    func firstBlock(of granule: UInt64) -> UInt64 { granule * blocksPerGranule }

    private func isOwed(_ granule: UInt64) -> Bool {
        owed[Int(granule >> 6)] & (1 << (granule & 63)) != 0
    }

    /// Returns whether it was owed.
    @discardableResult
    private mutating func clearOwed(_ granule: UInt64) -> Bool {
        let wasOwed = isOwed(granule)
        owed[Int(granule >> 6)] &= ~(1 << (granule & 63))
        return wasOwed
    }

    private func bit(_ block: UInt64) -> UInt64 { 1 << (block % blocksPerGranule) }

    /// The bits of all blocks that a granule has.
    private func wholeMask(_ granule: UInt64) -> UInt64 {
        let count = blocks(of: range(ofGranule: granule)).count
        return count == 64 ? .max : (1 << UInt64(count)) - 1
    }

    private func units(of range: ByteRange, _ unitBytes: UInt64) -> Range<UInt64> {
        guard !range.isEmpty else { return 0..<0 }
        return (range.offset / unitBytes)..<((range.end - 1) / unitBytes + 1)
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

import Glibc
import Synchronization

// How a range comes to read as zeroes: by one call that deallocates or zeroes it, where the file
// system has one, else by writing. Which calls it lacks is remembered for the file: tmpfs, for
// one, can punch holes but not zero ranges. A block device takes such calls for whole blocks only,
// so the edges of a range may be written where its middle need not be.

extension HostFile {
    /// What is a multiple of every device's blocks.
    private static let blockBytes: UInt64 = 4096

    /// Makes `range` read as zeroes: by deallocating it with `mayUnmap`, else by zeroing what is
    /// allocated, and by writing zeroes where the file system can do neither.
    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) throws(BlockError) {
        if try zeroByCall(range, mayUnmap: mayUnmap) { return }
        let whole = range.alignedInward(to: Self.blockBytes)
        guard !whole.isEmpty, whole != range, try zeroByCall(whole, mayUnmap: mayUnmap) else {
            return try writeZeroBytes(range)
        }
        try writeZeroBytes(ByteRange(offset: range.offset, end: whole.offset))
        try writeZeroBytes(ByteRange(offset: whole.end, end: range.end))
    }

    /// Deallocates `range`, or the whole blocks of it, where the file system can. Returns whether
    /// it did.
    package func deallocate(_ range: ByteRange) throws(BlockError) -> Bool {
        if try punchIfPossible(range) { return true }
        let whole = range.alignedInward(to: Self.blockBytes)
        guard whole != range else { return false }
        return try punchIfPossible(whole)
    }

    private func zeroByCall(_ range: ByteRange, mayUnmap: Bool) throws(BlockError) -> Bool {
        if mayUnmap, try punchIfPossible(range) { return true }
        return try attempt(range, canZeroRanges) { () throws(BlockError) in try zeroRange(range) }
    }

    private func punchIfPossible(_ range: ByteRange) throws(BlockError) -> Bool {
        try attempt(range, canPunchHoles) { () throws(BlockError) in try punchHole(range) }
    }

    /// Runs `body` if `isPossible`, which is cleared if it turns out not to be. Returns false if
    /// the file cannot do that, or not at such offsets.
    private func attempt(
        _ range: ByteRange, _ isPossible: borrowing Atomic<Bool>,
        _ body: () throws(BlockError) -> Void
    ) throws(BlockError) -> Bool {
        if range.isEmpty { return true }
        guard isPossible.load(ordering: .relaxed) else { return false }
        do throws(BlockError) {
            try body()
            return true
        } catch {
            if error.kind == .unsupported { isPossible.store(false, ordering: .relaxed) }
            if error.kind == .unsupported || error.kind == .invalid { return false }
            throw error
        }
    }

    private func writeZeroBytes(_ range: ByteRange) throws(BlockError) {
        guard !range.isEmpty else { return }
        let zeroes = BufferPool.shared.take(Int(min(range.lengthBytes, 1 << 20)))
        memset(zeroes.base, 0, zeroes.capacityBytes)
        var position = range.offset
        while position < range.end {
            let count = min(range.end - position, UInt64(zeroes.capacityBytes))
            try write(at: position, from: zeroes.prefix(Int(count)).readOnlyBytes)
            position += count
        }
    }
}

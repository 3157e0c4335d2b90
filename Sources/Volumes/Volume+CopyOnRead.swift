package import BlockCore
package import Catalog
import Synchronization

// What is read from below the top is stored in the top, so that it is there the next time.
//
//   hold     the range, in whole units
//   store    what the top does not hold of it and is no zeroes: read, write into the top
//   release
//
// The range is held from the look at the top to the last write, so that neither a guest's write nor
// a snapshot comes in between: what was read would then be older than what it is stored over. The
// volume reads the same afterwards, so nothing is announced, kept, marked or followed.

extension Volume {
    /// Whether what guests read is to be stored, and can be.
    package var copiesReads: Bool {
        isCopyOnRead.load(ordering: .relaxed) && !isReadOnly && chainNodeCount > 1
    }

    /// Has guests' reads be stored or not, as `mode` says. The catalog is the caller's.
    package func setBackingMode(_ mode: BackingMode) {
        isCopyOnRead.store(mode == .cor, ordering: .relaxed)
    }

    /// Stores in the top what is below it in `range`, rounded outward to whole units.
    package func storeBacking(of range: ByteRange) async throws(BlockError) {
        let whole = range.alignedOutward(to: allocationUnitBytes)
        let units = ByteRange(offset: whole.offset, end: min(whole.end, lengthBytes))
        let hold = await locks.acquire(units)
        defer { locks.release(hold) }
        for extent in try await top.allExtents(in: units) where extent.depth > 0 && !extent.isZero {
            for offset in stride(
                from: extent.range.offset, to: extent.range.end, by: Int(Self.storePieceBytes))
            {
                let piece = ByteRange(
                    offset: offset, end: min(offset + Self.storePieceBytes, extent.range.end))
                let content = BufferPool.shared.take(Int(piece.lengthBytes))
                    .prefix(Int(piece.lengthBytes))
                try await top.read(at: piece.offset, into: content)
                try await top.write(at: piece.offset, from: content)
            }
        }
    }

    private static let storePieceBytes: UInt64 = 1 << 20
}

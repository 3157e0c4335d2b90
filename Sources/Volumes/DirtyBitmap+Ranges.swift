package import Bitmaps
package import BlockCore

extension DirtyBitmap {
    /// All dirty ranges, ascending.
    package func dirtyRanges() -> some Sequence<ByteRange> {
        sequence(state: UInt64(0)) { [self] offset in
            guard let range = nextDirtyRange(from: offset) else { return nil }
            offset = range.end
            return range
        }
    }

    /// `merge` from a bitmap that was made for the same volume.
    func mergeOfSameVolume(_ other: DirtyBitmap) {
        do throws(BlockError) { try merge(from: other) } catch {
            preconditionFailure("two bitmaps of one volume: \(error)")
        }
    }
}

// How an increment is found without a bitmap that can be trusted: the volume is read, and what has
// another digest than in the parent is stored. Cells that read as zeroes count as much as others.
//
// A cell of another length than in the parent, at the end of a volume that was resized, always
// differs: the two digests are of different bytes.

package import BlockCore

/// Tells which clusters of a volume are not what its parent point holds.
package struct CellComparison: Sendable {
    /// The unit in which differences are told: the clusters of the point to come.
    private let clusterBytes: UInt64
    private let algorithm: DigestAlgorithm
    /// What counts as different in any case (`PointWriter.rangeToHold`).
    private let rangeToHold: ByteRange

    package init(
        algorithm: DigestAlgorithm, clusterBytes: UInt64, rangeToHold: ByteRange
    ) {
        self.algorithm = algorithm
        self.clusterBytes = clusterBytes
        self.rangeToHold = rangeToHold
    }

    /// The clusters of `content`, which the volume holds from `offset` on, that differ from
    /// `cells`, the parent's pieces from there on; those that touch are one range.
    package func differences(
        of content: BufferSlice, at offset: UInt64, from cells: [ContentPiece]
    ) -> [ByteRange] {
        let bytes = content.readOnlyBytes
        let range = ByteRange(offset: offset, lengthBytes: UInt64(content.count))
        return clusters(of: range, against: cells) { cell, part in
            let start = Int(part.offset - offset)
            let own = UnsafeRawBufferPointer(
                rebasing: bytes[start..<start + Int(part.lengthBytes)])
            guard let digest = cell.digest else { return own.isAllZero }
            return part == cell.range && algorithm.digest(of: own) == digest
        }
    }

    /// The same for a range that reads as zeroes.
    package func differences(
        ofZeroes range: ByteRange, from cells: [ContentPiece]
    ) -> [ByteRange] {
        clusters(of: range, against: cells) { cell, _ in cell.digest == nil }
    }

    /// The clusters of `range` for which not every cell passes `isSame`, which is called with the
    /// parent's piece and the part of it that lies in the range.
    private func clusters(
        of range: ByteRange, against cells: [ContentPiece],
        _ isSame: (ContentPiece, ByteRange) -> Bool
    ) -> [ByteRange] {
        var found: [ByteRange] = []
        func add(_ part: ByteRange) {
            let start = max(part.offset.alignedDown(to: clusterBytes), range.offset)
            let end = min(part.end.alignedUp(to: clusterBytes), range.end)
            if let last = found.last, last.end >= start {
                found[found.count - 1] = ByteRange(offset: last.offset, end: max(last.end, end))
            } else {
                found.append(ByteRange(offset: start, end: end))
            }
        }
        for cell in cells {
            let part = cell.range.intersection(range)
            guard !part.isEmpty else { continue }
            // A long piece of zeroes is compared cluster by cluster: one byte that differs must
            // not make all of it differ.
            var position = part.offset
            while position < part.end {
                let end = min(
                    (position + clusterBytes).alignedDown(to: clusterBytes), part.end)
                let piece = ByteRange(offset: position, end: end)
                if piece.overlaps(rangeToHold) || !isSame(cell, piece) { add(piece) }
                position = end
            }
        }
        return found
    }
}

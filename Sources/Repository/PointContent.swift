// What a volume reads as at a point follows from the tables of the point's chain: for each cell
// the newest record counts, and a zero record counts as much as data, so that it hides what older
// points hold. What no table records reads as zeroes.
//
// Sizes: a record is visible only below the smallest length that the volume had from its point on;
// what a shrink cut off does not come back when the volume grows again. A cell in which the
// shorter of two consecutive lengths ends has another length in the one than in the other, so the
// newer point must have recorded it (`Grid.rangeToHold`). Where that rule was broken, `next`
// throws: the digest that it would return is of other bytes.

package import BlockCore

/// A part of a volume and what it reads as.
package struct ContentPiece: Hashable, Sendable {
    package var range: ByteRange
    /// The digest of one cell of data; nil where the range reads as zeroes.
    package var digest: CellDigest?
}

/// The whole content of a volume at a point, cell by cell in ascending order: the merge of all
/// tables of the point's chain, with one small buffer for each.
///
/// Nothing about it is safe to share; the calls may block.
package final class PointContent {
    private struct Level {
        let reader: DigestTableReader
        /// Records from here on are not visible any more.
        let limit: UInt64
        private(set) var current: TableRecord?
        /// Whether `current` reached beyond the limit.
        private(set) var isCut = false

        init(reader: DigestTableReader, limit: UInt64) throws(BlockError) {
            self.reader = reader
            self.limit = limit
            try advance()
        }

        /// Moves on to the first record that ends beyond `position`.
        mutating func skip(to position: UInt64) throws(BlockError) {
            while let record = current, record.range.end <= position { try advance() }
        }

        private mutating func advance() throws(BlockError) {
            current = try reader.next()
            guard let record = current, record.range.end > limit else { return }
            isCut = true
            current?.range = ByteRange(offset: record.range.offset, end: limit)
            if record.range.offset >= limit {
                try reader.drain()
                current = nil
            }
        }
    }

    /// The exact length of the volume at the point.
    package let volumeBytes: UInt64
    /// The length of a cell.
    package let gridBytes: UInt64

    /// The point, counted from the oldest, that recorded the piece which `next` last returned; nil
    /// if none did.
    private(set) var level: Int?

    private var levels: [Level] = []
    private var position: UInt64 = 0
    /// Levels above `winner` have nothing before `boundary`.
    private var winner = 0
    private var boundary: UInt64 = 0

    /// Merges `readers`, the oldest first and at least one. All have the same grid.
    init(_ readers: [DigestTableReader]) throws(BlockError) {
        precondition(!readers.isEmpty)
        let newest = readers[readers.count - 1].header
        volumeBytes = newest.volumeBytes
        gridBytes = newest.gridBytes
        var limit = UInt64.max
        for reader in readers.reversed() {
            guard reader.header.gridBytes == gridBytes,
                reader.header.algorithm == newest.algorithm
            else {
                throw BlockError(
                    .corrupt, "merge the digest tables", on: "chain",
                    detail: "two points of one chain have different cells or digests")
            }
            limit = min(limit, reader.header.volumeBytes)
            levels.append(try Level(reader: reader, limit: limit))
        }
        levels.reverse()
    }

    /// The next piece. The pieces are consecutive from 0 to the volume's end; nil follows the last,
    /// and by then the SHA-256 of every table has been compared.
    package func next() throws(BlockError) -> ContentPiece? {
        guard position < volumeBytes else {
            for level in levels { try level.reader.drain() }
            return nil
        }
        var index = levels.count - 1
        var end = volumeBytes
        if position < boundary {
            index = winner
            end = boundary
        }
        while index >= 0 {
            try levels[index].skip(to: position)
            if let record = levels[index].current {
                if record.range.offset <= position {
                    winner = index
                    boundary = end
                    level = index
                    return try piece(
                        to: min(end, record.range.end), digest: record.digest,
                        isCut: levels[index].isCut)
                }
                end = min(end, record.range.offset)
            }
            index -= 1
        }
        level = nil
        return try piece(to: end, digest: nil, isCut: false)
    }

    private func piece(
        to end: UInt64, digest: CellDigest?, isCut: Bool
    ) throws(BlockError) -> ContentPiece {
        let range = ByteRange(offset: position, end: end)
        let isWhole =
            digest == nil
            ? end % gridBytes == 0 || end == volumeBytes
            : end == min(position + gridBytes, volumeBytes) && !isCut
        guard isWhole, !range.isEmpty else {
            throw BlockError(
                .corrupt, "merge the digest tables", on: "chain", range: range,
                detail: "the volume's length changed and the cell in which it ended is not in "
                    + "the increment")
        }
        position = end
        return ContentPiece(range: range, digest: digest)
    }
}

package import BlockCore

// A point is read in windows: pieces that begin and end on multiples of `windowBytes`, or at the
// end of the volume, and hold at most that much if there is anything to read in them. A run of
// windows without any is one piece.

/// A part of a piece: one cell, or what has none.
struct PointPart: Hashable, Sendable {
    var range: ByteRange
    /// What the bytes must come to; nil where there is nothing to read, or to compare it with.
    var digest: CellDigest?
    /// Whether the bytes are read; else they are zeroes.
    var isRead: Bool
    /// Why this is not certain to be the point's content; nil if it is.
    var doubt: String?

    /// The same but for the place and the content.
    func isLike(_ other: PointPart) -> Bool {
        isRead == other.isRead && doubt == other.doubt && digest == nil && other.digest == nil
    }
}

/// A part of a point that is restored in one go.
package struct PointPiece: Sendable {
    package var range: ByteRange
    /// Consecutive, covering the range.
    var parts: [PointPart]

    /// Whether nothing needs to be read: all of it is zeroes, known or for want of anything else.
    package var isZero: Bool { !parts.contains { $0.isRead } }
}

/// Cuts the content of a point into pieces, in ascending order.
///
/// Nothing about it is safe to share; the calls may block.
final class PointPieces {
    static let windowBytes: UInt64 = 1 << 20

    private let volumeBytes: UInt64
    private let nextPart: () throws(BlockError) -> PointPart?
    private var position: UInt64 = 0
    private var rest: PointPart?

    /// `nextPart` gives consecutive parts from 0 to the volume's end, and nil after the last. None
    /// that has a digest lies across the border of two windows.
    init(volumeBytes: UInt64, nextPart: @escaping () throws(BlockError) -> PointPart?) {
        self.volumeBytes = volumeBytes
        self.nextPart = nextPart
    }

    /// The next piece; nil at the end.
    func next() throws(BlockError) -> PointPiece? {
        guard var part = try peek() else { return nil }
        let wholeEnd =
            part.range.end == volumeBytes
            ? volumeBytes : part.range.end.alignedDown(to: Self.windowBytes)
        if !part.isRead, wholeEnd > position {
            part.range = ByteRange(offset: position, end: wholeEnd)
            consume(to: wholeEnd)
            return PointPiece(range: part.range, parts: [part])
        }
        let window = ByteRange(
            offset: position, end: min(position + Self.windowBytes, volumeBytes))
        var parts: [PointPart] = []
        while position < window.end, var part = try peek() {
            part.range = ByteRange(
                offset: position, end: min(part.range.end, window.end))
            if let last = parts.last, last.isLike(part) {
                parts[parts.count - 1].range.lengthBytes += part.range.lengthBytes
            } else {
                parts.append(part)
            }
            consume(to: part.range.end)
        }
        return PointPiece(range: window, parts: parts)
    }

    private func peek() throws(BlockError) -> PointPart? {
        if let rest, rest.range.end > position { return rest }
        rest = try nextPart()
        return rest
    }

    private func consume(to end: UInt64) { position = end }
}

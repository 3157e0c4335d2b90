/// A half-open range of bytes of a node: from `offset` up to, not including, `end`.
package struct ByteRange: Hashable, Sendable {
    package var offset: UInt64
    package var lengthBytes: UInt64

    package init(offset: UInt64, lengthBytes: UInt64) {
        self.offset = offset
        self.lengthBytes = lengthBytes
    }

    /// The range from `offset` up to `end`; empty if `end` is not above `offset`.
    package init(offset: UInt64, end: UInt64) {
        self.offset = offset
        self.lengthBytes = end > offset ? end - offset : 0
    }

    package var end: UInt64 { offset + lengthBytes }
    package var isEmpty: Bool { lengthBytes == 0 }

    /// Whether the two share at least one byte.
    package func overlaps(_ other: ByteRange) -> Bool {
        offset < other.end && other.offset < end
    }

    /// Whether every byte of `other` lies in this range.
    package func contains(_ other: ByteRange) -> Bool {
        offset <= other.offset && other.end <= end
    }

    /// The bytes that both hold; empty where they share none.
    package func intersection(_ other: ByteRange) -> ByteRange {
        ByteRange(offset: max(offset, other.offset), end: min(end, other.end))
    }

    /// The smallest range with both ends on a multiple of `alignmentBytes`, a power of two, that
    /// contains this one.
    package func alignedOutward(to alignmentBytes: UInt64) -> ByteRange {
        ByteRange(
            offset: offset.alignedDown(to: alignmentBytes), end: end.alignedUp(to: alignmentBytes))
    }

    /// The largest range with both ends on a multiple of `alignmentBytes`, a power of two, that
    /// this one contains.
    package func alignedInward(to alignmentBytes: UInt64) -> ByteRange {
        ByteRange(
            offset: offset.alignedUp(to: alignmentBytes), end: end.alignedDown(to: alignmentBytes))
    }
}

extension ByteRange: CustomStringConvertible {
    package var description: String { "\(offset)+\(lengthBytes)" }
}

extension UInt64 {
    /// The largest multiple of `alignment`, a power of two, that is not above this number.
    @inlinable
    package func alignedDown(to alignment: UInt64) -> UInt64 { self & ~(alignment - 1) }

    /// The smallest multiple of `alignment`, a power of two, that is not below this number.
    @inlinable
    package func alignedUp(to alignment: UInt64) -> UInt64 {
        (self + (alignment - 1)) & ~(alignment - 1)
    }

    /// Whether this number is a power of two.
    @inlinable
    package var isPowerOfTwo: Bool { self != 0 && self & (self - 1) == 0 }
}

/// A run of bytes of a node with one answer to "what is here?".
package struct Extent: Hashable, Sendable {
    package var range: ByteRange

    /// Whether the run is known to read as zeroes. False promises nothing.
    package var isZero: Bool

    /// Whether no node of the chain has storage for the run (NBD's `hole`).
    package var isHole: Bool

    /// How many nodes below the one asked the content was found: 0 is the node itself. A run that
    /// no node of the chain allocates has the depth of the base.
    package var depth: Int

    package init(range: ByteRange, isZero: Bool, isHole: Bool, depth: Int = 0) {
        self.range = range
        self.isZero = isZero
        self.isHole = isHole
        self.depth = depth
    }

    /// Whether the answers of the two are the same, wherever they lie.
    package func hasSameStatus(as other: Extent) -> Bool {
        isZero == other.isZero && isHole == other.isHole && depth == other.depth
    }
}

extension [Extent] {
    /// Appends `extent`, growing the last one instead where the two touch and say the same.
    package mutating func appendMerging(_ extent: Extent) {
        guard !extent.range.isEmpty else { return }
        if let last, last.range.end == extent.range.offset, last.hasSameStatus(as: extent) {
            self[count - 1].range.lengthBytes += extent.range.lengthBytes
        } else {
            append(extent)
        }
    }
}

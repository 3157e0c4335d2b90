/// A snapshot of 32768 granules of a dirty bitmap: the form in which a bitmap is persisted.
package struct BitmapChunk: Hashable, Sendable {
    /// How many granules a chunk covers; the last chunk of a bitmap may cover fewer.
    package static let granuleCount = 32768

    /// Which chunk of its bitmap this is, counted from 0.
    package let index: Int

    /// One bit for each granule, the first granule in the lowest bit of the first byte: exactly
    /// the bytes that the chunk's granules need, or none at all where every granule is clean.
    package let bytes: [UInt8]

    package init(index: Int, bytes: [UInt8]) {
        self.index = index
        self.bytes = bytes
    }
}

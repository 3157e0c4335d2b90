extension DirtyBitmap {
    /// How many 64-bit words the bits take.
    package var wordCount: Int { (granuleCount + 63) / 64 }

    /// Copies the bits from word `first` on: the first granule in the lowest bit of the first byte,
    /// clean bits beyond the last granule. The form in which QEMU digests a bitmap and stores it in
    /// an image. `destination` takes whole words.
    package func copyWords(from first: Int, into destination: UnsafeMutableRawBufferPointer) {
        precondition(destination.count % 8 == 0)
        for index in 0..<destination.count / 8 {
            let word = first + index
            let bits = word < wordCount ? chunk(word / ChunkBits.wordCount) : nil
            destination.storeBytes(
                of: (bits?.word(word % ChunkBits.wordCount) ?? 0).littleEndian,
                toByteOffset: index * 8, as: UInt64.self)
        }
    }
}

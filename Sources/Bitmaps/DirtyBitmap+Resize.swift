package import BlockCore

extension DirtyBitmap {
    /// A bitmap for the node at another length, with the same bits as far as both reach. The bits
    /// that a growth adds are clean.
    ///
    /// What counts as persisted here counts as persisted there, but for the chunk at the end of
    /// the shorter one, which has another length there.
    package func resized(to lengthBytes: UInt64) throws(BlockError) -> DirtyBitmap {
        let other = try DirtyBitmap(lengthBytes: lengthBytes, granularityBytes: granularityBytes)
        let shared = min(granuleCount, other.granuleCount)
        for index in 0..<min(chunkCount, other.chunkCount) {
            guard let bits = chunk(index) else { continue }
            let base = index * BitmapChunk.granuleCount
            for wordIndex in 0..<ChunkBits.wordCount {
                let left = shared - base - wordIndex * 64
                guard left > 0 else { break }
                let word = bits.word(wordIndex) & (left < 64 ? (1 << UInt64(left)) - 1 : ~0)
                guard word != 0 else { continue }
                other.countDirty(other.allocatedChunk(index).load(word, intoWord: wordIndex))
            }
            if bits.needsPersisting { other.restoreUnpersisted([index]) }
        }
        let edge = min(chunkCount, other.chunkCount) - 1
        if edge >= 0, chunk(edge) != nil { other.restoreUnpersisted([edge]) }
        return other
    }
}

package import BlockCore

extension DirtyBitmap {
    /// Marks whatever `other` has marked, rounded out to the granules of this bitmap.
    ///
    /// Throws `invalid` if the two are of different lengths; their granularities may differ.
    package func merge(from other: DirtyBitmap) throws(BlockError) {
        guard lengthBytes == other.lengthBytes else {
            throw BlockError(
                .invalid, "merge dirty bitmaps", on: "a bitmap of \(other.lengthBytes) bytes",
                detail: "the target is of \(lengthBytes) bytes; they must be equally long")
        }
        if granularityBytes == other.granularityBytes {
            mergeWords(of: other)
        } else {
            var offset: UInt64 = 0
            while let range = other.nextDirtyRange(from: offset) {
                mark(range)
                offset = range.end
            }
        }
    }

    /// A new bitmap with the same bits, none of which count as persisted.
    package func copy() -> DirtyBitmap {
        do throws(BlockError) {
            let copy = try DirtyBitmap(
                lengthBytes: lengthBytes, granularityBytes: granularityBytes)
            copy.mergeWords(of: self)
            return copy
        } catch {
            preconditionFailure("this bitmap was made with the same arguments: \(error)")
        }
    }

    private func mergeWords(of other: DirtyBitmap) {
        for index in 0..<chunkCount {
            guard let theirs = other.chunk(index) else { continue }
            for wordIndex in 0..<ChunkBits.wordCount {
                let word = theirs.word(wordIndex)
                guard word != 0 else { continue }
                countDirty(allocatedChunk(index).merge(word, intoWord: wordIndex))
            }
        }
    }
}

package import BlockCore

// How a bitmap gets into the catalog: take the chunks that changed, commit them, and on failure
// hand their numbers back. Between a take and the end of its commit there must be no other take
// of the same bitmap, or an older snapshot could be committed over a newer one.

extension DirtyBitmap {
    /// Snapshots of the chunks that changed since they were last taken, which then count as
    /// persisted; with a `range`, only of those that it touches, and at most `limit`.
    ///
    /// A mark that completed before the call is in the result or in an earlier one; a mark during
    /// the call is in the result or in the next one.
    package func takeDirtyChunks(
        touching range: ByteRange? = nil, limit: Int = .max
    ) -> [BitmapChunk] {
        let range = range ?? ByteRange(offset: 0, lengthBytes: lengthBytes)
        let end = endInside(range)
        guard range.offset < end else { return [] }
        let chunkBytes = granularityBytes * UInt64(BitmapChunk.granuleCount)
        var chunks: [BitmapChunk] = []
        for index in Int(range.offset / chunkBytes)...Int((end - 1) / chunkBytes) {
            guard let bits = chunk(index), bits.needsPersisting else { continue }
            guard chunks.count < limit else { break }
            chunks.append(
                BitmapChunk(index: index, bytes: bits.take(byteCount: byteCount(ofChunk: index))))
        }
        return chunks
    }

    /// Takes back that the chunks with these numbers are persisted: their commit failed.
    package func restoreUnpersisted(_ indexes: [Int]) {
        for index in indexes where index >= 0 && index < chunkCount {
            allocatedChunk(index).setChanged()
        }
    }

    /// Sets the bits of a chunk that was persisted. It counts as persisted still.
    ///
    /// Throws `corrupt`, changing nothing, if the chunk does not fit this bitmap.
    package func load(_ chunk: BitmapChunk) throws(BlockError) {
        guard !chunk.bytes.isEmpty else { return }
        guard chunk.index >= 0, chunk.index < chunkCount,
            chunk.bytes.count == byteCount(ofChunk: chunk.index), hasCleanTail(chunk)
        else {
            throw BlockError(
                .corrupt, "load chunk \(chunk.index) of a dirty bitmap",
                on: "a bitmap of \(granuleCount) granules",
                detail: "the chunk of \(chunk.bytes.count) bytes does not fit it")
        }
        let bits = allocatedChunk(chunk.index)
        for wordIndex in 0..<((chunk.bytes.count + 7) / 8) {
            var word: UInt64 = 0
            for byte in wordIndex * 8..<min(wordIndex * 8 + 8, chunk.bytes.count) {
                word |= UInt64(chunk.bytes[byte]) << UInt64((byte & 7) * 8)
            }
            if word != 0 { countDirty(bits.load(word, intoWord: wordIndex)) }
        }
    }

    private func byteCount(ofChunk index: Int) -> Int {
        (granuleCount(ofChunk: index) + 7) / 8
    }

    private func granuleCount(ofChunk index: Int) -> Int {
        min(BitmapChunk.granuleCount, granuleCount - index * BitmapChunk.granuleCount)
    }

    /// Whether no bit is set beyond the last granule.
    private func hasCleanTail(_ chunk: BitmapChunk) -> Bool {
        let used = granuleCount(ofChunk: chunk.index) % 8
        return used == 0 || chunk.bytes[chunk.bytes.count - 1] >> UInt8(used) == 0
    }
}

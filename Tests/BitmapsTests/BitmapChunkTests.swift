import Bitmaps
import BlockCore
import TestSupport
import Testing

/// The bytes of the node that chunk `index` covers at 4 KiB granularity begin here.
private func chunkStart(_ index: Int) -> UInt64 { UInt64(index) * 4096 * 32768 }

private func makeBitmap(chunks: Int = 4) throws -> DirtyBitmap {
    try DirtyBitmap(lengthBytes: chunkStart(chunks), granularityBytes: 4096)
}

@Suite struct BitmapChunkTests {
    @Test func onlyChunksThatChangedAreTaken() throws {
        let bitmap = try makeBitmap()
        bitmap.mark(ByteRange(offset: chunkStart(1) + 4096 * 9, lengthBytes: 1))
        let chunks = bitmap.takeDirtyChunks()
        #expect(chunks.map(\.index) == [1])
        #expect(chunks[0].bytes.count == 4096)
        #expect(chunks[0].bytes[1] == 0b10)
        #expect(chunks[0].bytes.count { $0 != 0 } == 1)
        #expect(bitmap.takeDirtyChunks().isEmpty)

        bitmap.mark(ByteRange(offset: chunkStart(1) + 4096 * 9, lengthBytes: 4096))
        #expect(bitmap.takeDirtyChunks().isEmpty, "nothing changed")
        bitmap.mark(ByteRange(offset: chunkStart(3), lengthBytes: 1))
        bitmap.clear(ByteRange(offset: chunkStart(2), end: chunkStart(3)))
        #expect(bitmap.takeDirtyChunks().map(\.index) == [3])
    }

    @Test func aChunkThatBecameCleanHasNoBytes() throws {
        let bitmap = try makeBitmap()
        bitmap.markAll()
        #expect(bitmap.takeDirtyChunks().map(\.index) == [0, 1, 2, 3])
        bitmap.clear(ByteRange(offset: chunkStart(2), end: chunkStart(3)))
        #expect(bitmap.takeDirtyChunks() == [BitmapChunk(index: 2, bytes: [])])
    }

    @Test func aTakeCanBeLimitedToARegion() throws {
        let bitmap = try makeBitmap()
        bitmap.markAll()
        let region = ByteRange(offset: chunkStart(2) - 1, lengthBytes: 2)
        #expect(bitmap.takeDirtyChunks(touching: region).map(\.index) == [1, 2])
        #expect(bitmap.takeDirtyChunks().map(\.index) == [0, 3])
    }

    @Test func chunksWhoseCommitFailedAreTakenAgain() throws {
        let bitmap = try makeBitmap()
        bitmap.mark(ByteRange(offset: 0, end: chunkStart(2)))
        let first = bitmap.takeDirtyChunks()
        bitmap.restoreUnpersisted(first.map(\.index))
        #expect(bitmap.takeDirtyChunks() == first)
    }

    @Test(arguments: [1, 511, 4096, 32768, 100_000_000, 268_447_745] as [UInt64])
    func whatWasTakenCanBeLoaded(lengthBytes: UInt64) throws {
        var generator = Seed.generator(#function)
        let bitmap = try DirtyBitmap(lengthBytes: lengthBytes, granularityBytes: 4096)
        for _ in 0..<20 {
            bitmap.mark(
                ByteRange(offset: .random(in: 0..<lengthBytes, using: &generator), lengthBytes: 7))
        }
        bitmap.mark(ByteRange(offset: lengthBytes - 1, lengthBytes: 1))
        let loaded = try DirtyBitmap(lengthBytes: lengthBytes, granularityBytes: 4096)
        for chunk in bitmap.takeDirtyChunks() { try loaded.load(chunk) }
        #expect(loaded.dirtyGranuleCount == bitmap.dirtyGranuleCount)
        #expect(allRanges(of: loaded) == allRanges(of: bitmap))
        #expect(loaded.takeDirtyChunks().isEmpty, "what was loaded is persisted")
    }

    @Test func aChunkThatDoesNotFitIsRefusedAndChangesNothing() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 4096 * 13, granularityBytes: 4096)
        let misfits = [
            BitmapChunk(index: 1, bytes: [1, 0]), BitmapChunk(index: -1, bytes: [1, 0]),
            BitmapChunk(index: 0, bytes: [1]), BitmapChunk(index: 0, bytes: [1, 0, 0]),
            BitmapChunk(index: 0, bytes: [1, 0b10_0000]),
        ]
        for chunk in misfits {
            #expect {
                try bitmap.load(chunk)
            } throws: {
                ($0 as? BlockError)?.kind == .corrupt && "\($0)".contains("does not fit")
            }
        }
        #expect(bitmap.dirtyGranuleCount == 0)
        try bitmap.load(BitmapChunk(index: 0, bytes: [1, 0b1_0000]))
        #expect(bitmap.dirtyGranuleCount == 2)
    }

    private func allRanges(of bitmap: DirtyBitmap) -> [ByteRange] {
        var ranges: [ByteRange] = []
        while let range = bitmap.nextDirtyRange(from: ranges.last?.end ?? 0) {
            ranges.append(range)
        }
        return ranges
    }
}

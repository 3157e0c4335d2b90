import BlockCore
import TestSupport
import Testing

@testable import Bitmaps

@Suite struct BitmapResizeTests {
    /// Against a model, with lengths around the ends of granules, words and chunks.
    @Test func aResizedBitmapHasTheBitsThatBothReach() throws {
        var generator = Seed.generator("aResizedBitmapHasTheBitsThatBothReach")
        let granularity: UInt64 = 512
        let chunk = granularity * UInt64(BitmapChunk.granuleCount)
        for _ in 0..<60 {
            func length() -> UInt64 {
                let near = [0, chunk, 2 * chunk, 64 * granularity].randomElement(using: &generator)!
                return near + UInt64.random(in: 1...3 * granularity, using: &generator)
            }
            let (old, new) = (length(), length())
            let bitmap = try DirtyBitmap(lengthBytes: old, granularityBytes: granularity)
            for _ in 0..<20 {
                let offset = UInt64.random(in: 0..<old, using: &generator)
                bitmap.mark(ByteRange(offset: offset, lengthBytes: 700))
            }
            _ = bitmap.takeDirtyChunks()
            let resized = try bitmap.resized(to: new)
            for granule in 0..<max(bitmap.granuleCount, resized.granuleCount) {
                let offset = UInt64(granule) * granularity
                let isExpected = offset < min(old, new) && bitmap.isDirty(at: offset)
                #expect(resized.isDirty(at: offset) == isExpected, "\(old) → \(new), \(granule)")
            }
            #expect(resized.dirtyGranuleCount <= bitmap.dirtyGranuleCount)
            try expectStored(bitmap, then: resized)
        }
    }

    /// What is stored of the old one, cut to the new one's chunks, with what the new one has to
    /// store in its place, is the new one.
    private func expectStored(_ old: DirtyBitmap, then new: DirtyBitmap) throws {
        let all = old.copy().takeDirtyChunks()
        var stored = Dictionary(uniqueKeysWithValues: all.map { ($0.index, $0) })
        stored = stored.filter { $0.key < new.chunkCount }
        for chunk in new.takeDirtyChunks() { stored[chunk.index] = chunk }
        let loaded = try DirtyBitmap(
            lengthBytes: new.lengthBytes, granularityBytes: new.granularityBytes)
        for chunk in stored.values { try loaded.load(chunk) }
        var offset: UInt64 = 0
        while offset < new.lengthBytes {
            #expect(loaded.isDirty(at: offset) == new.isDirty(at: offset))
            offset += new.granularityBytes
        }
        #expect(loaded.dirtyGranuleCount == new.dirtyGranuleCount)
    }

    @Test func aBitmapThatIsTooLargeIsRefusedWithTheGranularityThatFits() throws {
        #expect {
            try DirtyBitmap(lengthBytes: 16 << 40, granularityBytes: 512)
        } throws: { error in
            "\(error)".contains("larger than 512 MiB")
                && "\(error)".contains("choose a larger granularity: 4096")
        }
        // The bounds themselves.
        #expect(
            try DirtyBitmap(lengthBytes: 2 << 40, granularityBytes: 512).granuleCount == 1 << 32)
        #expect(try DirtyBitmap(lengthBytes: 1 << 56, granularityBytes: 2 << 30).chunkCount == 1024)
        #expect(throws: BlockError.self) {
            try DirtyBitmap(lengthBytes: (2 << 40) + 1, granularityBytes: 512)
        }
    }
}

import Bitmaps
import BlockCore
import Glibc
import Synchronization
import Testing

/// Where the tests persist chunks: by number, as a catalog would.
private final class ChunkStore: Sendable {
    private let chunks = Mutex<[Int: [UInt8]]>([:])

    /// Takes the changed chunks of `bitmap` and stores them; one caller at a time.
    func persist(_ bitmap: DirtyBitmap) {
        chunks.withLock { chunks in
            for chunk in bitmap.takeDirtyChunks() { chunks[chunk.index] = chunk.bytes }
        }
    }

    func holds(granule: Int) -> Bool {
        chunks.withLock { chunks in
            let bytes = chunks[granule / BitmapChunk.granuleCount] ?? []
            let bit = granule % BitmapChunk.granuleCount
            return bit / 8 < bytes.count && bytes[bit / 8] & (1 << UInt8(bit % 8)) != 0
        }
    }
}

private func granule(_ index: Int) -> ByteRange {
    ByteRange(offset: UInt64(index) * 512, lengthBytes: 512)
}

@Suite struct BitmapConcurrencyTests {
    @Test func marksOfSeveralThreadsInTheSameWordsAreAllThere() async throws {
        let count = 100_000
        let bitmap = try DirtyBitmap(lengthBytes: UInt64(count) * 512, granularityBytes: 512)
        await onThreads(4) { thread in
            for index in stride(from: thread, to: count, by: 4) { bitmap.mark(granule(index)) }
        }
        #expect(bitmap.dirtyGranuleCount == count)
        #expect(
            bitmap.nextDirtyRange(from: 0)
                == ByteRange(offset: 0, lengthBytes: bitmap.lengthBytes))
    }

    @Test func overlappingMarksAndClearsAreCountedOnce() async throws {
        let count = 70_000
        let bitmap = try DirtyBitmap(lengthBytes: UInt64(count) * 512, granularityBytes: 512)
        await onThreads(3) { thread in
            for index in stride(from: 0, to: count - 200, by: 100) {
                bitmap.mark(ByteRange(offset: granule(index).offset, lengthBytes: 512 * 200))
                if thread == 0 {
                    bitmap.clear(ByteRange(offset: granule(index).offset, lengthBytes: 51200))
                }
            }
        }
        var dirty = 0
        for index in 0..<count where bitmap.isDirty(at: granule(index).offset) { dirty += 1 }
        #expect(bitmap.dirtyGranuleCount == dirty)
    }

    @Test func noMarkIsLostByATakeAtTheSameTime() async throws {
        let count = 3 * BitmapChunk.granuleCount
        let bitmap = try DirtyBitmap(lengthBytes: UInt64(count) * 512, granularityBytes: 512)
        let store = ChunkStore()
        let markers = Shared(2)
        let takes = Shared(0)
        await onThreads(3) { thread in
            if thread == 2 {
                while markers.value.load(ordering: .acquiring) > 0 {
                    store.persist(bitmap)
                    takes.value.add(1, ordering: .relaxed)
                }
            } else {
                while takes.value.load(ordering: .acquiring) == 0 { sched_yield() }
                for index in stride(from: thread, to: count, by: 2) { bitmap.mark(granule(index)) }
                markers.value.subtract(1, ordering: .acquiringAndReleasing)
            }
        }
        store.persist(bitmap)
        let missing = (0..<count).count { !store.holds(granule: $0) }
        #expect(missing == 0, "\(missing) marks were never persisted")
        print("\(takes.value.load(ordering: .relaxed)) takes during the marks")
    }

    @Test func whoFindsABitSetCanRelyOnTheNextTake() {
        let chunk = ChunkBits.allocate()
        defer { chunk.deallocate() }
        chunk.change(5, 5) { word, mask in
            word.bitwiseOr(mask, ordering: .acquiringAndReleasing)
            // Here another thread finds the bit set, returns and takes, twice.
            for _ in 0..<2 {
                #expect(chunk.needsPersisting)
                #expect(chunk.take(byteCount: 1) == [0b10_0000])
            }
            return 1
        }
        #expect(chunk.needsPersisting, "the change ended after the last take began")
        #expect(chunk.take(byteCount: 1) == [0b10_0000])
        #expect(!chunk.needsPersisting)
    }
}

/// Lets closures of several threads share an atomic.
private final class Shared: Sendable {
    let value: Atomic<Int>

    init(_ value: Int) { self.value = Atomic(value) }
}

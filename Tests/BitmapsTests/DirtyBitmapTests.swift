import Bitmaps
import BlockCore
import Testing

private let kibi: UInt64 = 1 << 10
private let tebi: UInt64 = 1 << 40

@Suite struct DirtyBitmapTests {
    @Test(arguments: [0, 256, 513, 1536, 1 << 32, .max] as [UInt64])
    func refusesGranularitiesThatQemuRefuses(granularity: UInt64) {
        #expect {
            try DirtyBitmap(lengthBytes: 1 << 20, granularityBytes: granularity)
        } throws: {
            ($0 as? BlockError)?.kind == .invalid
                && "\($0)".contains("power of two from 512 bytes to 2 GiB")
        }
    }

    @Test func refusesBitmapsAbove512MiBAndSaysWhy() throws {
        let largest = (512 << 20) * 8 * 512 as UInt64
        let bitmap = try DirtyBitmap(lengthBytes: largest, granularityBytes: 512)
        #expect(bitmap.granuleCount == 1 << 32)
        for length in [largest + 1, .max] {
            #expect {
                try DirtyBitmap(lengthBytes: length, granularityBytes: 512)
            } throws: {
                ($0 as? BlockError)?.kind == .invalid && "\($0)".contains("larger than 512 MiB")
                    && "\($0)".contains("choose a larger granularity")
            }
        }
    }

    @Test func marksRoundOut() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 20, granularityBytes: 64 * kibi)
        bitmap.mark(ByteRange(offset: 64 * kibi - 1, lengthBytes: 2))
        #expect(bitmap.dirtyGranuleCount == 2)
        #expect(bitmap.isDirty(at: 0))
        #expect(bitmap.isDirty(at: 128 * kibi - 1))
        #expect(!bitmap.isDirty(at: 128 * kibi))
        #expect(bitmap.nextDirtyRange(from: 0) == ByteRange(offset: 0, lengthBytes: 128 * kibi))
    }

    @Test func clearsRoundIn() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 20, granularityBytes: 64 * kibi)
        bitmap.markAll()
        bitmap.clear(ByteRange(offset: 1, lengthBytes: 192 * kibi - 2))
        #expect(bitmap.isDirty(at: 0))
        #expect(!bitmap.isDirty(at: 64 * kibi))
        #expect(bitmap.isDirty(at: 128 * kibi))
        #expect(bitmap.dirtyGranuleCount == 15)
        bitmap.clear(ByteRange(offset: 300 * kibi, lengthBytes: 10))
        #expect(bitmap.dirtyGranuleCount == 15)
    }

    @Test func theShortLastGranuleIsWholeWhenTheRangeReachesTheEnd() throws {
        let length = 128 * kibi + 7
        let bitmap = try DirtyBitmap(lengthBytes: length, granularityBytes: 64 * kibi)
        bitmap.markAll()
        #expect(bitmap.dirtyGranuleCount == 3)
        #expect(bitmap.nextDirtyRange(from: 0) == ByteRange(offset: 0, lengthBytes: length))
        bitmap.clear(ByteRange(offset: 128 * kibi, lengthBytes: 6))
        #expect(bitmap.isDirty(at: length - 1))
        bitmap.clear(ByteRange(offset: 128 * kibi, lengthBytes: 7))
        #expect(!bitmap.isDirty(at: length - 1))
        bitmap.mark(ByteRange(offset: length - 1, lengthBytes: 1))
        bitmap.clear(ByteRange(offset: 100 * kibi, lengthBytes: .max))
        #expect(bitmap.dirtyGranuleCount == 2)
    }

    @Test func countsInBytesAsQemuDoesNotCutAtTheEnd() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 128 * kibi + 7, granularityBytes: 64 * kibi)
        bitmap.markAll()
        #expect(bitmap.dirtyBytes == 192 * kibi)
        bitmap.clearAll()
        #expect(bitmap.dirtyBytes == 0)
    }

    @Test func rangesBeyondTheEndAreIgnored() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 64 * kibi, granularityBytes: 4 * kibi)
        bitmap.mark(ByteRange(offset: 64 * kibi, lengthBytes: 1))
        bitmap.mark(ByteRange(offset: .max, lengthBytes: .max))
        bitmap.mark(ByteRange(offset: 0, lengthBytes: 0))
        #expect(bitmap.dirtyGranuleCount == 0)
        bitmap.mark(ByteRange(offset: 62 * kibi, lengthBytes: .max))
        #expect(bitmap.dirtyGranuleCount == 1)
        #expect(!bitmap.isDirty(at: 64 * kibi))
        #expect(!bitmap.isDirty(at: .max))
        #expect(bitmap.nextDirtyRange(from: .max) == nil)
        let beyond = ByteRange(offset: 64 * kibi, lengthBytes: 5)
        #expect(bitmap.nextRun(in: beyond) == (beyond, false))
    }

    @Test func anEmptyNodeHasAnEmptyBitmap() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 0, granularityBytes: 64 * kibi)
        bitmap.markAll()
        bitmap.clearAll()
        #expect(bitmap.dirtyBytes == 0)
        #expect(bitmap.nextDirtyRange(from: 0) == nil)
        #expect(bitmap.takeDirtyChunks().isEmpty)
    }

    @Test func dirtyRangesAreCutAtTheLengthAskedFor() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 20, granularityBytes: 64 * kibi)
        bitmap.mark(ByteRange(offset: 128 * kibi, lengthBytes: 256 * kibi))
        #expect(
            bitmap.nextDirtyRange(from: 0, lengthMax: 64 * kibi)
                == ByteRange(offset: 128 * kibi, lengthBytes: 64 * kibi))
        #expect(
            bitmap.nextDirtyRange(from: 200 * kibi, lengthMax: 1000 * kibi)
                == ByteRange(offset: 200 * kibi, end: 384 * kibi))
        #expect(bitmap.nextDirtyRange(from: 384 * kibi) == nil)
        #expect(bitmap.nextDirtyRange(from: 0, lengthMax: 0) == nil)
    }

    @Test func aHugeCleanDiskIsSearchedAtOnce() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 256 * tebi, granularityBytes: 64 * kibi)
        let last = 256 * tebi - 64 * kibi
        bitmap.mark(ByteRange(offset: last, lengthBytes: 1))
        let clock = ContinuousClock()
        let start = clock.now
        #expect(
            bitmap.nextDirtyRange(from: 0) == ByteRange(offset: last, lengthBytes: 64 * kibi))
        print("256 TiB with one dirty granule searched in \(clock.now - start)")
        let all = ByteRange(offset: 0, lengthBytes: 256 * tebi)
        #expect(bitmap.nextRun(in: all) == (ByteRange(offset: 0, end: last), false))
        #expect(bitmap.takeDirtyChunks().map(\.index) == [bitmap.chunkCount - 1])
    }

    @Test func markingWhatIsMarkedCostsLittle() throws {
        let bitmap = try DirtyBitmap(lengthBytes: tebi, granularityBytes: 64 * kibi)
        let passes = 200_000
        for name in ["new", "set"] {
            let clock = ContinuousClock()
            let start = clock.now
            for index in 0..<passes {
                bitmap.mark(ByteRange(offset: UInt64(index) * 64 * kibi, lengthBytes: 4096))
            }
            let nanoseconds = (clock.now - start) / .nanoseconds(passes)
            print("marking a granule, \(name): \(nanoseconds) ns")
        }
        #expect(bitmap.dirtyGranuleCount == passes)
    }
}

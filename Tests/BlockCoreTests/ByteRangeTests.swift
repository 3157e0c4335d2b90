import BlockCore
import Testing

@Suite struct ByteRangeTests {
    @Test func aRangeWhoseEndIsBeforeItsStartIsEmpty() {
        #expect(ByteRange(offset: 10, end: 3).isEmpty)
        #expect(ByteRange(offset: 10, end: 10).isEmpty)
        #expect(ByteRange(offset: 10, end: 12).lengthBytes == 2)
    }

    @Test func rangesThatTouchDoNotOverlap() {
        let range = ByteRange(offset: 10, lengthBytes: 10)
        #expect(!range.overlaps(ByteRange(offset: 20, lengthBytes: 1)))
        #expect(!range.overlaps(ByteRange(offset: 0, lengthBytes: 10)))
        #expect(range.overlaps(ByteRange(offset: 19, lengthBytes: 1)))
        #expect(range.overlaps(ByteRange(offset: 0, lengthBytes: 100)))
    }

    @Test func theIntersectionIsWhatBothHold() {
        let range = ByteRange(offset: 10, lengthBytes: 10)
        #expect(
            range.intersection(ByteRange(offset: 15, lengthBytes: 10))
                == ByteRange(offset: 15, lengthBytes: 5))
        #expect(range.intersection(ByteRange(offset: 30, lengthBytes: 1)).isEmpty)
        #expect(range.contains(range) && range.contains(ByteRange(offset: 20, lengthBytes: 0)))
        #expect(!range.contains(ByteRange(offset: 19, lengthBytes: 2)))
    }

    @Test func alignmentGoesOutwardOrInward() {
        let range = ByteRange(offset: 513, lengthBytes: 1000)
        #expect(range.alignedOutward(to: 512) == ByteRange(offset: 512, lengthBytes: 1024))
        #expect(range.alignedInward(to: 512) == ByteRange(offset: 1024, lengthBytes: 0))
        #expect(
            ByteRange(offset: 1, lengthBytes: 1500).alignedInward(to: 512)
                == ByteRange(offset: 512, lengthBytes: 512))
        #expect(ByteRange(offset: 1, lengthBytes: 5).alignedInward(to: 512).isEmpty)
    }

    @Test func extentsThatSayTheSameAreMerged() {
        var extents: [Extent] = []
        func extent(_ offset: UInt64, zero: Bool) -> Extent {
            Extent(
                range: ByteRange(offset: offset, lengthBytes: 10), isZero: zero, isHole: false)
        }
        extents.appendMerging(extent(0, zero: false))
        extents.appendMerging(extent(10, zero: false))
        extents.appendMerging(extent(20, zero: true))
        extents.appendMerging(extent(40, zero: true))
        #expect(extents.map(\.range.lengthBytes) == [20, 10, 10])
    }
}

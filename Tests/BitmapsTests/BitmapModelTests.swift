import Bitmaps
import BlockCore
import TestSupport
import Testing

/// A dirty bitmap as plainly as it can be written.
private struct BitmapModel {
    let lengthBytes: UInt64
    let granularityBytes: UInt64
    var granules: [Bool]

    init(lengthBytes: UInt64, granularityBytes: UInt64) {
        self.lengthBytes = lengthBytes
        self.granularityBytes = granularityBytes
        let count = (lengthBytes + granularityBytes - 1) / granularityBytes
        granules = Array(repeating: false, count: Int(count))
    }

    func bytes(of granule: Int) -> ByteRange {
        let start = UInt64(granule) * granularityBytes
        return ByteRange(offset: start, end: min(start + granularityBytes, lengthBytes))
    }

    mutating func mark(_ range: ByteRange) {
        for granule in granules.indices where bytes(of: granule).overlaps(range) {
            granules[granule] = true
        }
    }

    mutating func clear(_ range: ByteRange) {
        for granule in granules.indices where range.contains(bytes(of: granule)) {
            granules[granule] = false
        }
    }

    func isDirty(at offset: UInt64) -> Bool { granules[Int(offset / granularityBytes)] }

    func run(in range: ByteRange) -> (ByteRange, Bool) {
        let first = Int(range.offset / granularityBytes)
        let dirty = granules[first]
        let other = granules[first...].firstIndex { $0 != dirty }
        let end = other.map { UInt64($0) * granularityBytes } ?? lengthBytes
        return (ByteRange(offset: range.offset, end: min(end, range.end)), dirty)
    }

    func dirtyRange(from offset: UInt64, lengthMax: UInt64) -> ByteRange? {
        let start = Int(offset / granularityBytes)
        guard let first = granules[start...].firstIndex(of: true) else { return nil }
        let begin = max(offset, UInt64(first) * granularityBytes)
        let limit = ByteRange(offset: begin, end: min(begin + lengthMax, lengthBytes))
        return run(in: limit).0
    }
}

@Suite struct BitmapModelTests {
    struct Geometry: Sendable, CustomStringConvertible {
        let lengthBytes: UInt64
        let granularityBytes: UInt64
        var description: String { "\(lengthBytes)/\(granularityBytes)" }
    }

    static let geometries = [
        Geometry(lengthBytes: 1, granularityBytes: 512),
        Geometry(lengthBytes: 64 * 512, granularityBytes: 512),
        Geometry(lengthBytes: 100_000, granularityBytes: 512),
        Geometry(lengthBytes: 33_000 * 512 + 1, granularityBytes: 512),
        Geometry(lengthBytes: 70_000 * 4096 - 5, granularityBytes: 4096),
        Geometry(lengthBytes: 12_345_678, granularityBytes: 65536),
    ]

    @Test(arguments: geometries)
    func agreesWithThePlainModel(geometry: Geometry) throws {
        var generator = Seed.generator(#function)
        let length = geometry.lengthBytes
        let bitmap = try DirtyBitmap(
            lengthBytes: length, granularityBytes: geometry.granularityBytes)
        var model = BitmapModel(lengthBytes: length, granularityBytes: geometry.granularityBytes)
        for _ in 0..<60 {
            let range = randomRange(in: length, &generator)
            if Bool.random(using: &generator) {
                bitmap.mark(range)
                model.mark(range)
            } else {
                bitmap.clear(range)
                model.clear(range)
            }
            let dirty = model.granules.count { $0 }
            #expect(bitmap.dirtyGranuleCount == dirty)
            #expect(bitmap.dirtyBytes == UInt64(dirty) * geometry.granularityBytes)
            for _ in 0..<5 {
                let offset = UInt64.random(in: 0..<length, using: &generator)
                let lengthMax = UInt64.random(in: 1...length, using: &generator)
                #expect(bitmap.isDirty(at: offset) == model.isDirty(at: offset))
                #expect(
                    bitmap.nextDirtyRange(from: offset, lengthMax: lengthMax)
                        == model.dirtyRange(from: offset, lengthMax: lengthMax))
                let asked = ByteRange(offset: offset, end: min(offset + lengthMax, length))
                #expect(bitmap.nextRun(in: asked) == model.run(in: asked))
            }
        }
    }

    @Test(arguments: geometries, [512, 4096, 32768, 1 << 20] as [UInt64])
    func mergeMarksWhatTheOtherHasRoundedOut(geometry: Geometry, granularity: UInt64) throws {
        var generator = Seed.generator(#function)
        let length = geometry.lengthBytes
        let source = try DirtyBitmap(
            lengthBytes: length, granularityBytes: geometry.granularityBytes)
        let target = try DirtyBitmap(lengthBytes: length, granularityBytes: granularity)
        var expected = BitmapModel(lengthBytes: length, granularityBytes: granularity)
        for _ in 0..<4 {
            let range = randomRange(in: min(length, 1 << 20), &generator)
            source.mark(range)
            expected.mark(outward(range, geometry.granularityBytes, length))
            let own = randomRange(in: length, &generator)
            target.mark(own)
            expected.mark(own)
        }
        try target.merge(from: source)
        for granule in expected.granules.indices {
            let start = expected.bytes(of: granule).offset
            if target.isDirty(at: start) != expected.granules[granule] {
                Issue.record("granule \(granule) should be \(expected.granules[granule])")
                return
            }
        }
        #expect(target.dirtyGranuleCount == expected.granules.count { $0 })
    }

    @Test func mergeRefusesAnotherLength() throws {
        let one = try DirtyBitmap(lengthBytes: 1 << 20, granularityBytes: 4096)
        let other = try DirtyBitmap(lengthBytes: (1 << 20) + 1, granularityBytes: 4096)
        #expect {
            try one.merge(from: other)
        } throws: {
            ($0 as? BlockError)?.kind == .invalid && "\($0)".contains("equally long")
        }
    }

    @Test func aCopyHasTheBitsAndGoesItsOwnWay() throws {
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 30, granularityBytes: 4096)
        bitmap.mark(ByteRange(offset: 123_456_789, lengthBytes: 1_000_000))
        _ = bitmap.takeDirtyChunks()
        let copy = bitmap.copy()
        #expect(copy.dirtyBytes == bitmap.dirtyBytes)
        #expect(copy.nextDirtyRange(from: 0) == bitmap.nextDirtyRange(from: 0))
        #expect(copy.takeDirtyChunks().count == 1)
        bitmap.clearAll()
        #expect(copy.isDirty(at: 123_456_789))
    }

    private func randomRange(in length: UInt64, _ generator: inout SplitMix64) -> ByteRange {
        let offset = UInt64.random(in: 0..<length, using: &generator)
        let most = Bool.random(using: &generator) ? length - offset : min(length - offset, 5000)
        return ByteRange(
            offset: offset, lengthBytes: UInt64.random(in: 0...most, using: &generator))
    }

    private func outward(_ range: ByteRange, _ granularity: UInt64, _ length: UInt64) -> ByteRange {
        guard !range.isEmpty else { return range }
        let aligned = range.alignedOutward(to: granularity)
        return ByteRange(offset: aligned.offset, end: min(aligned.end, length))
    }
}

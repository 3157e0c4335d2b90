import BlockCore
import TestSupport
import Testing

@testable import Repository

/// Chains of tables against byte arrays, without any image.
@Suite struct PointContentTests {
    private static let grid: UInt64 = 4096

    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    private func cells(of content: [UInt8]) -> [(range: ByteRange, digest: CellDigest?)] {
        stride(from: 0, to: content.count, by: Int(Self.grid)).map { start in
            let end = min(start + Int(Self.grid), content.count)
            let range = ByteRange(offset: UInt64(start), end: UInt64(end))
            return content.withUnsafeBytes { bytes in
                let cell = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
                return (
                    range, cell.isAllZero ? nil : DigestAlgorithm.xxh3.digest(of: cell)
                )
            }
        }
    }

    private func table(
        _ index: Int, _ content: [UInt8], recording chosen: (ByteRange) -> Bool
    ) throws -> String {
        let path = "\(folder.path)/\(index).digests"
        let header = DigestTableHeader(
            algorithm: .xxh3, gridBytes: Self.grid, volumeBytes: UInt64(content.count))
        let writer = DigestTableWriter(
            file: try HostFile(path: path, access: .create), header: header)
        for cell in cells(of: content) where chosen(cell.range) {
            try writer.append(TableRecord(range: cell.range, digest: cell.digest))
        }
        _ = try writer.finish()
        return path
    }

    private func merged(_ paths: [String]) throws -> [(range: ByteRange, digest: CellDigest?)] {
        var readers: [DigestTableReader] = []
        for path in paths { readers.append(try DigestTableReader(path: path)) }
        let content = try PointContent(readers)
        var result: [(range: ByteRange, digest: CellDigest?)] = []
        while let piece = try content.next() {
            #expect(piece.range.offset == result.last?.range.end ?? 0)
            var position = piece.range.offset
            while position < piece.range.end {
                let end = min((position / Self.grid + 1) * Self.grid, piece.range.end)
                result.append((ByteRange(offset: position, end: end), piece.digest))
                position = end
            }
        }
        return result
    }

    @Test(arguments: 0..<40)
    func everyPointOfARandomChainReadsAsTheModel(_ round: Int) throws {
        let seed = Seed.current &+ UInt64(round)
        var random = SplitMix64(seed: seed)
        var volume = TestVolume(
            lengthBytes: Int.random(in: 1...300_000, using: &random), granularityBytes: Self.grid)
        volume.change(using: &random, mayResize: false)
        let path = "\(folder.path)/\(round)"
        try HostDirectory.create(path)
        var paths = [try table(0, volume.content) { _ in true }]
        for index in 1...8 {
            let before = volume.lengthBytes
            volume.advance(to: nil)
            volume.change(using: &random)
            let hold = Grid.rangeToHold(
                parentBytes: before, volumeBytes: volume.lengthBytes, granularityBytes: Self.grid)
            paths.append(
                try table(index, volume.content) { cell in
                    volume.dirty.contains(cell.offset / Self.grid) || hold.overlaps(cell)
                })
            let expected = cells(of: volume.content)
            let found = try merged(paths)
            #expect(found.map(\.range) == expected.map(\.range), "seed \(seed)")
            #expect(found.map(\.digest) == expected.map(\.digest), "seed \(seed)")
        }
    }

    @Test(arguments: [(10, 7), (7, 10)])
    func aChangedLengthNeedsItsEdgeInTheIncrement(_ before: Int, _ after: Int) throws {
        let full = [UInt8](repeating: 1, count: before * 1000)
        let increment =
            Array(full.prefix(after * 1000))
            + [UInt8](repeating: 0, count: max(0, after - before) * 1000)
        let edge = UInt64(min(before, after) * 1000) / Self.grid
        let base = try table(0, full) { _ in true }
        let without = try table(1, increment) { $0.offset / Self.grid > edge }
        let with = try table(2, increment) { $0.offset / Self.grid >= edge }
        #expect(throws: BlockError.self) { try merged([base, without]) }
        #expect(try merged([base, with]).map(\.digest) == cells(of: increment).map(\.digest))
    }

    @Test func whatAShrinkCutOffStaysAwayWhenTheVolumeGrowsAgain() throws {
        let full = [UInt8](repeating: 1, count: 10 * 4096)
        let base = try table(0, full) { _ in true }
        let shrunk = try table(1, Array(full.prefix(4 * 4096))) { _ in false }
        let grown = Array(full.prefix(4 * 4096)) + [UInt8](repeating: 0, count: 6 * 4096)
        let last = try table(2, grown) { _ in false }
        #expect(try merged([base, shrunk, last]).map(\.digest) == cells(of: grown).map(\.digest))
    }

    @Test func aZeroRecordHidesOlderData() throws {
        let full = [UInt8](repeating: 1, count: 3 * 4096)
        var zeroed = full
        zeroed.replaceSubrange(4096..<8192, with: [UInt8](repeating: 0, count: 4096))
        let base = try table(0, full) { _ in true }
        let increment = try table(1, zeroed) { $0.offset == 4096 }
        #expect(try merged([base, increment]).map(\.digest) == cells(of: zeroed).map(\.digest))
    }

    @Test func theRangeToHoldIsTheClusterInWhichTheShorterLengthEnds() {
        func hold(_ parent: UInt64, _ length: UInt64, _ granularity: UInt64) -> ByteRange {
            Grid.rangeToHold(
                parentBytes: parent, volumeBytes: length, granularityBytes: granularity)
        }
        #expect(hold(10_000, 10_000, 4096).isEmpty)
        #expect(hold(8192, 20_000, 4096).isEmpty)
        #expect(hold(10_000, 20_000, 4096) == ByteRange(offset: 8192, lengthBytes: 4096))
        #expect(hold(20_000, 10_000, 4096) == ByteRange(offset: 8192, end: 10_000))
        #expect(hold(10_000, 10_001, 512) == ByteRange(offset: 8192, end: 10_001))
        let megabyte: UInt64 = 1 << 20
        #expect(hold(3 * megabyte, 9 * megabyte, 2 * megabyte).isEmpty)
        #expect(
            hold(3 * megabyte + 1, 9 * megabyte, 4 * megabyte)
                == ByteRange(offset: 2 * megabyte, end: 4 * megabyte))
    }
}

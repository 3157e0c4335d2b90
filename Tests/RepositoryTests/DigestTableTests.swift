import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

@Suite struct DigestTableTests {
    private static let grid: UInt64 = 4096

    private let folder: TemporaryFolder
    private var path: String { "\(folder.path)/table.digests" }

    init() throws { folder = try TemporaryFolder() }

    private func header(
        _ algorithm: DigestAlgorithm = .xxh3, volumeBytes: UInt64 = 100 * grid + 77
    ) -> DigestTableHeader {
        DigestTableHeader(algorithm: algorithm, gridBytes: Self.grid, volumeBytes: volumeBytes)
    }

    private func data(_ cell: UInt64, _ header: DigestTableHeader) -> TableRecord {
        let offset = cell * header.gridBytes
        let text = Array("cell \(cell)".utf8)
        return TableRecord(
            range: ByteRange(offset: offset, lengthBytes: header.cellBytes(at: offset)),
            digest: text.withUnsafeBytes { header.algorithm.digest(of: $0) })
    }

    private func zero(_ cells: Range<UInt64>, _ header: DigestTableHeader) -> TableRecord {
        TableRecord(
            range: ByteRange(
                offset: cells.lowerBound * header.gridBytes,
                end: min(cells.upperBound * header.gridBytes, header.volumeBytes)),
            digest: nil)
    }

    private func write(
        _ records: [TableRecord], _ header: DigestTableHeader
    ) throws -> DigestTableHeader {
        try? HostDirectory.removeFile(path)
        let writer = DigestTableWriter(
            file: try HostFile(path: path, access: .create), header: header)
        for record in records { try writer.append(record) }
        return try writer.finish()
    }

    private func readAll() throws -> [TableRecord] {
        let reader = try DigestTableReader(path: path)
        var records: [TableRecord] = []
        while let record = try reader.next() { records.append(record) }
        return records
    }

    private func change(_ body: (inout Data) -> Void) throws {
        var bytes = try Data(contentsOf: URL(filePath: path))
        body(&bytes)
        try bytes.write(to: URL(filePath: path))
    }

    @Test(arguments: DigestAlgorithm.allCases)
    func recordsSurviveARoundTrip(_ algorithm: DigestAlgorithm) throws {
        let header = header(algorithm)
        let records = [
            data(0, header), data(1, header), zero(2..<50, header), data(60, header),
            zero(99..<101, header),
        ]
        let written = try write(records, header)
        #expect(written.recordCount == 5)
        #expect(try readAll() == records)
        let size = try HostFile(path: path, access: .readOnly).sizeBytes()
        #expect(size == UInt64(64 + 5 * (16 + algorithm.digestBytes)))
        #expect(written.tableBytes == size)
    }

    @Test func aTableLargerThanEveryBufferSurvivesARoundTrip() throws {
        let header = header(volumeBytes: 20_000 * Self.grid)
        let records = (0..<10_000).map { data($0 * 2, header) }
        _ = try write(records, header)
        #expect(try readAll() == records)
    }

    @Test func theBytesAreThoseOfTheDocument() throws {
        let header = header(volumeBytes: 3 * Self.grid)
        let cell = data(1, header)
        _ = try write([cell, zero(2..<3, header)], header)
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
        #expect(Array(bytes[0..<8]) == Array("TIDEMDIG".utf8))
        #expect(Array(bytes[8..<24]) == [1, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[24..<32]) == [0, 16, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[32..<40]) == [0, 48, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[40..<48]) == [2, 0, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[64..<80]) == [0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[96..<112]) == [0, 32, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0x80])
        #expect(bytes[112..<128].allSatisfy { $0 == 0 })
    }

    @Test func aDigestIsWhatXxhsumAndSha256sumPrint() throws {
        let text = Array("The tide waits for no one.".utf8)
        func hex(_ algorithm: DigestAlgorithm, _ count: Int) -> String {
            let digest = text.withUnsafeBytes {
                algorithm.digest(of: UnsafeRawBufferPointer(rebasing: $0[..<count]))
            }
            var bytes = [UInt8](repeating: 0, count: algorithm.digestBytes)
            bytes.withUnsafeMutableBytes { digest.store(into: $0) }
            return Hexadecimal.text(bytes)
        }
        try Data(text).write(to: URL(filePath: path))
        let sha256 = try run("sha256sum", path)
        #expect(sha256.output.hasPrefix(hex(.sha256, text.count)))
        // The published value for no bytes at all.
        #expect(hex(.xxh3, 0) == "99aa06d3014798d86001c324468d497f")
    }

    @Test func zeroRecordsThatTouchBecomeOne() throws {
        let header = header()
        _ = try write([zero(0..<5, header), zero(5..<6, header), zero(8..<9, header)], header)
        #expect(try readAll() == [zero(0..<6, header), zero(8..<9, header)])
    }

    @Test func aRangeThatIsWrittenTwiceIsRefused() throws {
        let header = header()
        #expect(throws: BlockError.self) {
            try write([data(3, header), data(3, header)], header)
        }
        #expect(throws: BlockError.self) {
            try write([zero(0..<5, header), data(4, header)], header)
        }
        #expect(throws: BlockError.self) { try write([data(5, header), data(4, header)], header) }
    }

    @Test func aRecordThatIsNoWholeCellIsRefused() throws {
        let header = header()
        let digest = data(0, header).digest
        let bad = [
            TableRecord(range: ByteRange(offset: 0, lengthBytes: 100), digest: digest),
            TableRecord(range: ByteRange(offset: 1, lengthBytes: 4096), digest: digest),
            TableRecord(range: ByteRange(offset: 0, lengthBytes: 8192), digest: digest),
            TableRecord(range: ByteRange(offset: 0, lengthBytes: 5000), digest: nil),
            TableRecord(range: ByteRange(offset: 0, lengthBytes: 0), digest: nil),
            TableRecord(range: ByteRange(offset: 101 * 4096, lengthBytes: 4096), digest: nil),
            TableRecord(range: ByteRange(offset: 100 * 4096, lengthBytes: 4096), digest: digest),
            TableRecord(range: ByteRange(offset: .max - 4095, lengthBytes: 4096), digest: nil),
        ]
        for record in bad {
            #expect(throws: BlockError.self, "\(record.range)") { try write([record], header) }
        }
    }

    @Test func aTruncatedTableIsRefusedAtEveryLength() throws {
        let header = header()
        _ = try write([data(0, header), zero(1..<9, header), data(9, header)], header)
        let whole = try Data(contentsOf: URL(filePath: path))
        for length in 0..<whole.count {
            try whole.prefix(length).write(to: URL(filePath: path))
            #expect(throws: BlockError.self, "\(length) bytes") { try readAll() }
        }
    }

    @Test func aGarbledTableNeverTraps() throws {
        var random = SplitMix64(seed: Seed.current)
        let header = header()
        _ = try write([data(0, header), zero(1..<9, header), data(9, header)], header)
        let whole = try Data(contentsOf: URL(filePath: path))
        var refused = 0
        for _ in 0..<2000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                bytes[Int.random(in: 0..<bytes.count, using: &random)] =
                    UInt8.random(in: 0 ... .max, using: &random)
            }
            try bytes.write(to: URL(filePath: path))
            do { _ = try readAll() } catch is BlockError { refused += 1 }
        }
        #expect(refused > 0)
    }

    @Test func everyFieldOfTheHeaderIsChecked() throws {
        let header = header()
        _ = try write([data(0, header)], header)
        let whole = try Data(contentsOf: URL(filePath: path))
        // Magic, version, algorithm, record length, reserved, grid, volume, count, reserved.
        for offset in [0, 8, 12, 16, 20, 24, 31, 39, 40, 47, 48, 63] {
            var bytes = whole
            bytes[offset] ^= 0xFF
            try bytes.write(to: URL(filePath: path))
            #expect(throws: BlockError.self, "byte \(offset)") { try readAll() }
        }
    }

    @Test func anotherSHA256ThanExpectedIsFoundAtTheEnd() throws {
        let header = header()
        let written = try write([data(0, header), data(1, header)], header)
        let first = try DigestTableReader(path: path)
        try first.drain()
        let expected = Manifest.Extents(
            file: "", lengthBytes: try #require(written.tableBytes),
            sha256: try #require(first.sha256), recordCount: 2, dataBytes: 8192, zeroBytes: 0)
        try DigestTableReader(path: path, expected: expected).drain()
        try change { $0[64 + 20] ^= 1 }
        #expect(throws: BlockError.self) {
            try DigestTableReader(path: path, expected: expected).drain()
        }
    }

    @Test func recordsOfAnyOrderComeOutSorted() throws {
        var random = SplitMix64(seed: Seed.current)
        let header = header(volumeBytes: 5000 * Self.grid)
        let ordered = (0..<5000).map { data($0, header) }
        var nearly = ordered
        for index in stride(from: 0, to: 4900, by: 7) { nearly.swapAt(index, index + 3) }
        for (records, runsMax) in [
            (ordered, 1), (nearly, 1), (ordered.shuffled(using: &random), 5000 / 25),
            (ordered.reversed(), 5000 / 25),
        ] {
            var sorter = RecordSorter(header: header, directory: folder.path, recordsMax: 100)
            for record in records {
                sorter.add([record])
                if sorter.isFull { try sorter.spill() }
            }
            var result: [TableRecord] = []
            try sorter.finish { (record) throws(BlockError) in result.append(record) }
            #expect(result == ordered)
            #expect((1...runsMax).contains(sorter.runCount))
        }
        #expect(try HostDirectory.names(in: folder.path) == [])
    }
}

import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

/// What every repository does, wherever it lives.
@Suite struct ConformanceTests {
    private let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    @Test(arguments: RepositoryKind.allCases)
    func aFullPointReadsAsTheVolume(_ kind: RepositoryKind) async throws {
        var random = SplitMix64(seed: Seed.current)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(lengthBytes: 400_001)
        volume.write(at: 70_000, randomBytes(200_000, using: &random))
        let manifest = try await volume.backUp(to: repository, .full, using: &random)
        #expect(manifest.volume.lengthBytes == 400_001)
        #expect(manifest.extents.dataBytes + manifest.extents.zeroBytes == 400_001)
        #expect(manifest.image.storedBytes == 4 * 65536)
        #expect(manifest.digest.algorithm == repository.details.digestAlgorithm)
        let device = try await repository.openPoint(manifest.point)
        #expect(device.lengthBytes == 400_001)
        #expect(device.isReadOnly)
        #expect(try await content(of: device) == volume.content)
        await #expect(throws: BlockError.self) {
            try await device.write(at: 0, from: slice([1]))
        }
        try await device.close()
    }

    @Test(
        arguments: RepositoryKind.allCases,
        [(512, 300_000), (4096, 300_000), (65536, 2_000_000), (2 << 20, 7_000_000)])
    func everyPointOfARandomChainReadsAsTheModel(
        _ kind: RepositoryKind, _ shape: (granularity: Int, length: Int)
    ) async throws {
        let seed = Seed.current
        var random = SplitMix64(seed: seed)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(
            lengthBytes: Int.random(in: 1...shape.length, using: &random),
            granularityBytes: UInt64(shape.granularity))
        var states: [(Manifest, [UInt8])] = []
        for index in 0..<5 {
            volume.change(using: &random, mayResize: index > 0 && index != 3)
            let manifest = try await volume.backUp(
                to: repository, index == 0 || index == 3 ? .full : .incremental, using: &random)
            states.append((manifest, volume.content))
        }
        for (manifest, expected) in states {
            let found = try await content(of: manifest.point, in: repository)
            #expect(found == expected, "\(manifest.point), seed \(seed)")
            let report = try await repository.verify(manifest.point)
            #expect(report.isGood, "\(report), seed \(seed)")
            #expect(
                report.checkedBytes == manifest.extents.dataBytes + manifest.extents.zeroBytes)
        }
        #expect(try await repository.points().map(\.id) == states.map(\.0.point))
    }

    /// A chain of increments and one full of the same content have the same content digest, and it
    /// is the one of the document, computed here from the bytes.
    @Test(arguments: RepositoryKind.allCases, 0..<4)
    func theContentDigestKnowsNoLineage(_ kind: RepositoryKind, _ round: Int) async throws {
        let seed = Seed.current &+ UInt64(round)
        var random = SplitMix64(seed: seed)
        let repository = try await kind.make(in: folder)
        let other = try TemporaryFolder()
        let fulls = try await kind.make(in: other)
        var volume = TestVolume(
            lengthBytes: Int.random(in: 1...200_000, using: &random), granularityBytes: 4096)
        for index in 0..<4 {
            volume.change(using: &random, mayResize: index > 0)
            let manifest = try await volume.backUp(
                to: repository, index == 0 ? .full : .incremental, using: &random)
            let plan = try volume.plan(.full, now: manifest.freeze.time, id: manifest.point)
            let writer = try await fulls.beginPoint(plan)
            try await volume.fill(writer, using: &random)
            let full = try await writer.commit {}
            #expect(full.contentDigest == manifest.contentDigest, "seed \(seed)")
            #expect(manifest.contentDigest == naiveDigest(of: volume.content, manifest))
        }
    }

    private func naiveDigest(of content: [UInt8], _ manifest: Manifest) -> String {
        let header =
            "tidemark content 1\n\(manifest.point)\n\(content.count)\n\(manifest.freeze.time.text)\n"
            + "\(manifest.digest.algorithm.rawValue)\n\(manifest.digest.gridBytes)\n"
        var bytes = Array(header.utf8)
        let grid = Int(manifest.digest.gridBytes)
        for start in stride(from: 0, to: content.count, by: grid) {
            let cell = Array(content[start..<min(start + grid, content.count)])
            guard cell.contains(where: { $0 != 0 }) else { continue }
            withUnsafeBytes(of: UInt64(start / grid).littleEndian) { bytes += Array($0) }
            var digest = [UInt8](repeating: 0, count: manifest.digest.algorithm.digestBytes)
            let value = cell.withUnsafeBytes { manifest.digest.algorithm.digest(of: $0) }
            digest.withUnsafeMutableBytes { value.store(into: $0) }
            bytes += digest
        }
        var hash = SHA256Stream()
        hash.update(bytes)
        return hash.text
    }

    @Test(arguments: RepositoryKind.allCases)
    func zeroesInAnIncrementHideWhatTheParentHolds(_ kind: RepositoryKind) async throws {
        var random = SplitMix64(seed: Seed.current)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(lengthBytes: 5 * 65536)
        volume.write(at: 0, randomBytes(5 * 65536, using: &random))
        try await volume.backUp(to: repository, .full, using: &random)
        volume.writeZeroes(at: 65536, count: 2 * 65536)
        let manifest = try await volume.backUp(to: repository, .incremental, using: &random)
        #expect(manifest.extents.zeroBytes == 2 * 65536)
        #expect(manifest.extents.recordCount == 1)
        #expect(manifest.image.storedBytes == 0)
        #expect(try await content(of: manifest.point, in: repository) == volume.content)
    }

    @Test(arguments: RepositoryKind.allCases)
    func anEmptyIncrementIsAPoint(_ kind: RepositoryKind) async throws {
        var random = SplitMix64(seed: Seed.current)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(lengthBytes: 100_000)
        volume.write(at: 5, [1, 2, 3])
        let full = try await volume.backUp(to: repository, .full, using: &random)
        let empty = try await volume.backUp(to: repository, .incremental, using: &random)
        volume.write(at: 70_000, [4, 5, 6])
        let last = try await volume.backUp(to: repository, .incremental, using: &random)
        #expect(empty.extents.recordCount == 0)
        #expect(empty.contentDigest != full.contentDigest)
        #expect(
            try await repository.chain(for: last.point).map(\.point)
                == [full.point, empty.point, last.point])
        #expect(try await content(of: last.point, in: repository) == volume.content)
        #expect(try await repository.verify(empty.point).isGood)
    }

    @Test(arguments: RepositoryKind.allCases, [0, 1, 511, 513, 4095, 65537, 1_048_577])
    func anOddLengthIsExact(_ kind: RepositoryKind, _ length: Int) async throws {
        var random = SplitMix64(seed: Seed.current)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(lengthBytes: length)
        if length > 0 { volume.write(at: length - 1, [0xFF]) }
        let full = try await volume.backUp(to: repository, .full, using: &random)
        if length > 0 { volume.write(at: length - 1, [0xFE]) }
        let increment = try await volume.backUp(to: repository, .incremental, using: &random)
        #expect(increment.image.lengthBytes % 512 == 0)
        #expect(try await content(of: increment.point, in: repository) == volume.content)
        #expect(try await repository.verify(full.point).isGood)
        #expect(try await repository.verify(increment.point).isGood)
    }

    @Test(arguments: RepositoryKind.allCases)
    func whoeverOpensTheRepositoryContinuesTheChain(_ kind: RepositoryKind) async throws {
        var random = SplitMix64(seed: Seed.current)
        var volume = TestVolume(lengthBytes: 200_000)
        volume.write(at: 0, randomBytes(200_000, using: &random))
        let first = try await kind.make(in: folder)
        let full = try await volume.backUp(to: first, .full, using: &random)
        let second = try await kind.reopen(in: folder)
        #expect(second.details == first.details)
        let found = try #require(try await second.points().last?.manifest)
        #expect(found == full)
        volume.advance(to: found)
        volume.name = "renamed"
        volume.write(at: 9, [1])
        let increment = try await volume.backUp(to: second, .incremental, using: &random)
        #expect(try await content(of: increment.point, in: first) == volume.content)
    }

    @Test(arguments: RepositoryKind.allCases)
    func theContentCanBeReadAsPieces(_ kind: RepositoryKind) async throws {
        var random = SplitMix64(seed: Seed.current)
        let repository = try await kind.make(in: folder)
        var volume = TestVolume(lengthBytes: 1_000_000, granularityBytes: 4096)
        volume.write(at: 8192, randomBytes(4096, using: &random))
        let manifest = try await volume.backUp(to: repository, .full, using: &random)
        let pieces = Pieces()
        try await repository.readContent(of: manifest.point) { (piece) throws(BlockError) in
            pieces.add(piece)
        }
        #expect(
            pieces.all.map(\.range) == [
                ByteRange(offset: 0, end: 8192), ByteRange(offset: 8192, end: 12288),
                ByteRange(offset: 12288, end: 1_000_000),
            ])
        #expect(pieces.all.map { $0.digest != nil } == [false, true, false])
    }

    @Test(arguments: RepositoryKind.allCases)
    func itKeepsTheNewestCopyOfEachCatalog(_ kind: RepositoryKind) async throws {
        let repository = try await kind.make(in: folder)
        #expect(try await repository.catalogCopies() == [])
        let names = [UUID(), UUID()].map { $0.uuidString.lowercased() }.sorted()
        for name in names { try await repository.putCatalogCopy([1, 2], named: name) }
        try await repository.putCatalogCopy([3], named: names[1])
        let other = try await kind.reopen(in: folder)
        #expect(try await other.catalogCopies() == names)
        #expect(try await other.catalogCopy(named: names[0]) == [1, 2])
        #expect(try await other.catalogCopy(named: names[1]) == [3])
        #expect(try await other.points().isEmpty)
        #expect(try await other.sweep().isEmpty)
        for name in ["../escape", "", names[0].uppercased()] {
            await #expect(throws: BlockError.self, "\(name)") {
                try await repository.putCatalogCopy([1], named: name)
            }
        }
    }
}

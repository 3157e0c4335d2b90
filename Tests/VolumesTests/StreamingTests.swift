import BlockCore
import Catalog
import DriverQcow2
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// A volume over a backing image that is copied into its own while guests use it.
@Suite struct StreamingTests {
    @Test func aPieceThatWasReadBeforeAWriteNeverOverwritesIt() async throws {
        var random = Seed.generator("populate")
        let fixture = try OverlayFixture()
        let volume = try await fixture.volume()
        var expected = fixture.base
        // Each piece is read early and stored late, with writes in between.
        for piece in fixture.pieces.shuffled(using: &random) {
            let old = Array(fixture.base[Int(piece.offset)..<Int(piece.end)])
            for _ in 0..<Int.random(in: 0...3, using: &random) {
                let start = Int(piece.offset)
                let count = Int.random(
                    in: 1...min(100_000, expected.count - start), using: &random)
                let offset = Int.random(
                    in: start...min(Int(piece.end) - 1, expected.count - count), using: &random)
                let byte = UInt8.random(in: 1...255, using: &random)
                let bytes = [UInt8](repeating: byte, count: count)
                switch Int.random(in: 0...2, using: &random) {
                case 0:
                    let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
                    try await volume.writeZeroes(range, mayUnmap: true)
                    expected.replaceSubrange(
                        offset..<offset + count, with: repeatElement(0, count: count))
                default:
                    try await volume.write(bytes, at: UInt64(offset))
                    expected.replaceSubrange(offset..<offset + count, with: bytes)
                }
            }
            _ = try await volume.toStream.populate(piece, from: .holding(old))
            #expect(try await volume.toStream.missing(in: piece).isEmpty)
        }
        #expect(try await volume.contents() == expected)
        try await volume.toStream.drop()
        #expect(!volume.hasBacking)
        #expect(try await volume.contents() == expected)
        let pins = try await volume.queue.run { (catalog) throws(BlockError) in
            try catalog.reading { (snapshot) throws(CatalogError) in try snapshot.pins() }
        }
        #expect(pins.map(\.volumeID) == [nil])
        try await volume.close()
        try FileManager.default.removeItem(atPath: fixture.basePath)
        let info = try Tool.check(["qemu-img", "check", fixture.overlayPath])
        #expect(info.contains("No errors"))
    }

    @Test func aStreamThatDoesNotLookIsNoticed() async throws {
        func keepsWhatIsNewer() async throws -> Bool {
            let fixture = try OverlayFixture()
            let volume = try await fixture.volume()
            let piece = fixture.pieces[0]
            try await volume.write([7, 7], at: piece.offset + 5)
            let old = Array(fixture.base[Int(piece.offset)..<Int(piece.end)])
            _ = try await volume.toStream.populate(piece, from: .holding(old))
            let now = try await volume.contents()[Int(piece.offset) + 5]
            try await volume.close()
            return now == 7
        }
        #expect(try await keepsWhatIsNewer())
        Mutant.active = .streamOverNewer
        defer { Mutant.active = nil }
        #expect(try await !keepsWhatIsNewer())
    }

    /// Guests' reads are stored while others write and snapshots are made.
    @Test func whatIsReadNeverOverwritesWhatIsNewer() async throws {
        var random = Seed.generator("copy on read")
        let fixture = try OverlayFixture()
        let queue = CatalogQueue(catalog: try Catalog(directory: fixture.directory.path))
        let store = VolumeStore(queue: queue, stateDirectory: fixture.directory.path)
        let volume = try await store.create(
            VolumeSpecification(
                name: "disk", lengthBytes: UInt64(fixture.base.count), format: .qcow2,
                path: fixture.overlayPath, backing: (fixture.basePath, .qcow2)))
        var expected = fixture.base
        for round in 0..<60 {
            let piece = fixture.pieces.randomElement(using: &random) ?? fixture.pieces[0]
            let count = Int.random(in: 1...min(9_000, Int(piece.lengthBytes)), using: &random)
            let offset =
                Int(piece.offset)
                + Int.random(in: 0...Int(piece.lengthBytes) - count, using: &random)
            let bytes = random.bytes(count)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<3 { group.addTask { try await volume.storeBacking(of: piece) } }
                group.addTask { try await volume.write(bytes, at: UInt64(offset)) }
                if round % 10 == 9 {
                    let path = fixture.directory.path("snapshot\(round)")
                    group.addTask { try await store.snapshot("disk", to: path) }
                }
                try await group.waitForAll()
            }
            expected.replaceSubrange(offset..<offset + count, with: bytes)
            #expect(try await volume.contents().firstDifference(from: expected) == nil)
        }
        for piece in fixture.pieces { try await volume.storeBacking(of: piece) }
        let extents = try await volume.allExtents(in: volume.wholeRange)
        #expect(extents.allSatisfy { $0.depth == 0 || $0.isZero })
        try await volume.close()
    }

    /// Reads go on while the backing image is taken away.
    @Test func readsUnderWayAreWaitedFor() async throws {
        let fixture = try OverlayFixture()
        let volume = try await fixture.volume()
        for piece in fixture.pieces {
            let old = Array(fixture.base[Int(piece.offset)..<Int(piece.end)])
            _ = try await volume.toStream.populate(piece, from: .holding(old))
        }
        let base = fixture.base
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<10 {
                        let content = try await volume.contents()
                        #expect(content == base)
                    }
                }
            }
            group.addTask { try await volume.toStream.drop() }
            try await group.waitForAll()
        }
        try await volume.close()
    }

    /// A crash at any step of letting the backing image go leaves bitmaps that are trusted and
    /// content that is whole.
    @Test(arguments: [false, true])
    func aCrashWhileTheBackingIsForgottenCostsNoTrust(isHeaderChanged: Bool) async throws {
        let fixture = try OverlayFixture()
        let volume = try await fixture.volume()
        for piece in fixture.pieces {
            let old = Array(fixture.base[Int(piece.offset)..<Int(piece.end)])
            _ = try await volume.toStream.populate(piece, from: .holding(old))
        }
        try await volume.flush()
        try await volume.queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                var nodes = try transaction.nodes(ofVolume: volume.id)
                nodes[1].change = .leaving
                try transaction.setNodes(nodes, ofVolume: volume.id)
            }
        }
        if isHeaderChanged { try await (volume.top as? Qcow2Device)?.setBacking(nil) }
        volume.chain.unlock()

        let store = VolumeStore(queue: volume.queue, stateDirectory: fixture.directory.path)
        try await store.openAll()
        let again = try await store.volume("disk")
        #expect(again.doubt == nil)
        #expect(again.hasBacking == !isHeaderChanged)
        #expect(again.bitmapStatuses().allSatisfy { $0.inconsistentReason == nil })
        #expect(try await again.contents() == fixture.base)
        _ = await store.closeAll()
    }
}

extension Volume {
    /// All that is below its top.
    fileprivate var toStream: ChainSegment { ChainSegment(of: self, below: 0, above: nil) }
}

/// A base image, an overlay of it, and the catalog of an agent that serves it.
private struct OverlayFixture {
    static let pinID = "00000000000000aa"

    let directory: TemporaryDirectory
    let base: [UInt8]

    init() throws {
        directory = try TemporaryDirectory()
        var random = Seed.generator("overlay")
        var base = [UInt8](repeating: 0, count: (4 << 20) + 300_032)
        for start in stride(from: 0, to: 3 << 20, by: 4096) where start % (256 << 10) != 0 {
            base[start] = UInt8.random(in: 1...255, using: &random)
        }
        self.base = base
        let raw = directory.path("base.raw")
        try Data(base).write(to: URL(fileURLWithPath: raw))
        try Tool.check(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, basePath])
    }

    var basePath: String { directory.path("base.qcow2") }
    var overlayPath: String { directory.path("overlay.qcow2") }

    var pieces: [ByteRange] {
        stride(from: 0, to: UInt64(base.count), by: 1 << 20).map {
            ByteRange(offset: $0, end: min($0 + 1 << 20, UInt64(base.count)))
        }
    }

    func volume() async throws -> Volume {
        let queue = CatalogQueue(catalog: try Catalog(directory: directory.path))
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                let repository = try transaction.insertRepository(
                    RepositoryRecord(uuid: UUID(), name: "vault", location: "/nowhere"))
                try transaction.insertPin(
                    PinRecord(
                        id: Self.pinID,
                        point: PointReference(repositoryID: repository.id, pointID: "p")))
            }
        }
        let reference = PointReference(repositoryID: 1, pointID: "p")
        return try await store.createOverlay(
            "disk", path: overlayPath, of: (basePath, .qcow2), lengthBytes: UInt64(base.count),
            origin: VolumeOrigin(
                volumeUUID: UUID().uuidString,
                bitmap: VolumeOrigin.Bitmap(
                    name: "vault", granularityBytes: 64 << 10, continues: reference),
                pinID: Self.pinID))
    }
}

import Bitmaps
import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

/// A volume as the write path and the backups use the catalog, with the truth beside it: which
/// granules differ from the point that its bitmap continues.
private struct ModelVolume {
    static let lengthBytes: UInt64 = 64 << 20
    static let granularityBytes: UInt64 = 64 << 10
    static let granules = lengthBytes / granularityBytes
    static let regionBytes: UInt64 = 4 << 20

    let catalog: Catalog
    let volume: VolumeRecord
    let repository: RepositoryRecord
    /// The bitmap that bears the name: frozen while a backup runs.
    var record: BitmapRecord
    var memory: DirtyBitmap
    var successor: (record: BitmapRecord, memory: DirtyBitmap)?
    var announced: Set<UInt64> = []
    var pointCount = 0
    /// Granules that differ from the last committed point.
    var differs: Set<UInt64> = []
    /// Those of them that were written since the freeze of the backup that runs.
    var differsSinceFreeze: Set<UInt64> = []

    init(catalog: Catalog) throws {
        self.catalog = catalog
        (volume, repository) = try catalog.write { (transaction) throws(CatalogError) in
            (
                try transaction.insertVolume(
                    VolumeRecord(
                        name: "a", lengthBytes: Self.lengthBytes, regionBytes: Self.regionBytes),
                    nodes: []),
                try transaction.insertRepository(
                    RepositoryRecord(uuid: UUID(), name: "r", location: "/r"))
            )
        }
        record = try catalog.insertBitmap("b", of: volume)
        memory = try Self.emptyBitmap()
    }

    static func emptyBitmap() throws -> DirtyBitmap {
        try DirtyBitmap(lengthBytes: lengthBytes, granularityBytes: granularityBytes)
    }

    mutating func write(granule: UInt64) throws {
        let region = granule * Self.granularityBytes / Self.regionBytes
        if !announced.contains(region) {
            try catalog.announce([region], ofVolume: volume.id)
            announced.insert(region)
        }
        differs.insert(granule)
        differsSinceFreeze.insert(granule)
        (successor?.memory ?? memory).mark(
            ByteRange(offset: granule * Self.granularityBytes, lengthBytes: 1))
    }

    mutating func retire(region: UInt64) throws {
        guard announced.remove(region) != nil else { return }
        let (recording, bits) = (successor?.record ?? record, successor?.memory ?? memory)
        let bytes = ByteRange(
            offset: region * Self.regionBytes, lengthBytes: Self.regionBytes)
        let chunks = bits.takeDirtyChunks(touching: bytes)
        do {
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.putChunks(chunks, ofBitmap: recording.id)
                try transaction.removeRegions([region], ofVolume: volume.id)
            }
        } catch {
            bits.restoreUnpersisted(chunks.map(\.index))
            throw error
        }
    }

    mutating func freeze() throws {
        guard successor == nil else { return }
        let chunks = memory.takeDirtyChunks()
        let point = PointReference(repositoryID: repository.id, pointID: "p\(pointCount)")
        announced = []
        do {
            let next = try catalog.write { (transaction) throws(CatalogError) in
                try transaction.clearRegions(ofVolume: volume.id)
                return try transaction.freezeBitmap(record.id, for: point, chunks: chunks)
            }
            successor = (next, try Self.emptyBitmap())
            differsSinceFreeze = []
        } catch {
            memory.restoreUnpersisted(chunks.map(\.index))
            throw error
        }
    }

    mutating func succeed() throws {
        guard let next = successor else { return }
        let point = makePoint("p\(pointCount)", of: volume, in: repository)
        record = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.promoteSuccessor(of: record.id, point: point)
        }
        memory = next.memory
        successor = nil
        pointCount += 1
        differs = differsSinceFreeze
    }

    mutating func fail() throws {
        guard let next = successor else { return }
        try memory.merge(from: next.memory)
        let chunks = memory.takeDirtyChunks()
        do {
            record = try catalog.write { (transaction) throws(CatalogError) in
                try transaction.mergeSuccessorBack(into: record.id, chunks: chunks)
            }
            successor = nil
        } catch {
            memory.restoreUnpersisted(chunks.map(\.index))
            throw error
        }
    }

    /// The granules that a crash at this instant would recover as dirty.
    func recovered(from crashed: Catalog) throws -> Set<UInt64> {
        let bits = try Self.emptyBitmap()
        for bitmap in try crashed.bitmaps(ofVolume: volume.id) {
            try crashed.loadChunks(ofBitmap: bitmap.id, into: bits)
        }
        for region in try crashed.announcedRegions(ofVolume: volume.id) {
            bits.mark(
                ByteRange(offset: region * Self.regionBytes, lengthBytes: Self.regionBytes))
        }
        return Set((0..<Self.granules).filter { bits.isDirty(at: $0 * Self.granularityBytes) })
    }
}

@Suite struct SupersetTests {
    @Test func aCrashAtAnyTimeRecoversAllThatDiffersFromTheLastPoint() throws {
        var generator = Seed.generator(#function)
        let directory = try TemporaryDirectory()
        let injected = CatalogError(.full, "commit", on: "test", detail: "injected")
        let fault = CommitFault(injected)
        let catalog = try Catalog(directory: directory.path, failCommit: { fault.next() })
        var model = try ModelVolume(catalog: catalog)
        var (crashes, failures) = (0, 0)
        for step in 0..<400 {
            if Int.random(in: 0..<6, using: &generator) == 0 { fault.arm(0) }
            do {
                switch Int.random(in: 0..<12, using: &generator) {
                case 0: try model.freeze()
                case 1: try model.succeed()
                case 2: try model.fail()
                case 3, 4: try model.retire(region: .random(in: 0..<16, using: &generator))
                default:
                    let granule = UInt64.random(in: 0..<ModelVolume.granules, using: &generator)
                    try model.write(granule: granule)
                }
            } catch let error as CatalogError {
                #expect(error == injected)
                failures += 1
            }
            guard step % 10 == 9 else { continue }
            let copy = try directory.copyOfCatalog()
            let crashed = try Catalog(directory: copy.path)
            let lost = model.differs.subtracting(try model.recovered(from: crashed))
            #expect(lost.isEmpty, "step \(step): granules \(lost.sorted()) were forgotten")
            crashes += 1
        }
        print("\(crashes) crashes, \(failures) failed commits, \(model.pointCount) points")
        #expect(crashes == 40 && failures > 0)
    }
}

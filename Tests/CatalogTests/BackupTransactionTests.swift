import Bitmaps
import BlockCore
import Catalog
import Foundation
import Testing

@Suite struct BackupTransactionTests {
    private let directory: TemporaryDirectory
    private let catalog: Catalog
    private let volume: VolumeRecord
    private let repository: RepositoryRecord
    private let record: BitmapRecord

    init() throws {
        directory = try TemporaryDirectory()
        catalog = try Catalog(directory: directory.path)
        (volume, repository) = try catalog.insertFixture()
        record = try catalog.insertBitmap("daily", of: volume)
    }

    private func reference(_ id: String) -> PointReference {
        PointReference(repositoryID: repository.id, pointID: id)
    }

    /// A bitmap like the one on record, with these granules dirty.
    private func bitmap(granules: [UInt64]) throws -> DirtyBitmap {
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 30, granularityBytes: 65536)
        for granule in granules {
            bitmap.mark(ByteRange(offset: granule * 65536, lengthBytes: 1))
        }
        return bitmap
    }

    /// The dirty granules that are stored of a bitmap.
    private func granules(of record: BitmapRecord) throws -> [UInt64] {
        let bitmap = try catalog.load(record)
        return (0..<UInt64(bitmap.granuleCount)).filter { bitmap.isDirty(at: $0 * 65536) }
    }

    private func freeze(_ id: String, granules: [UInt64] = [1, 2]) throws -> BitmapRecord {
        let chunks = try bitmap(granules: granules).takeDirtyChunks()
        return try catalog.write { (transaction) throws(CatalogError) in
            try transaction.freezeBitmap(record.id, for: reference(id), chunks: chunks)
        }
    }

    private func put(_ granules: [UInt64], in record: BitmapRecord) throws {
        let chunks = try bitmap(granules: granules).takeDirtyChunks()
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.putChunks(chunks, ofBitmap: record.id)
        }
    }

    @Test func aFreezeStoresTheBitsAndInstallsANamelessSuccessor() throws {
        let successor = try freeze("p")
        let all = try catalog.bitmaps(ofVolume: volume.id)
        #expect(all.map(\.name) == ["daily", nil])
        #expect(all[0].pending == reference("p"))
        #expect(all[0].isRecording && all[0].isFrozen)
        #expect(all[1] == successor)
        #expect(successor.successorOf == record.id && successor.isRecording)
        #expect(try granules(of: record) == [1, 2])
        #expect(try granules(of: successor).isEmpty)
        #expect(try catalog.frozenBitmaps() == [all[0]])
    }

    @Test func theSuccessorOfADisabledBitmapIsDisabled() throws {
        var disabled = record
        disabled.isRecording = false
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.updateBitmap(disabled)
        }
        #expect(try !freeze("p").isRecording)
    }

    @Test func aSuccessGivesTheNameToTheSuccessorAndAddsThePoint() throws {
        let successor = try freeze("p")
        try put([7], in: successor)
        let point = makePoint("p", of: volume, in: repository)
        let promoted = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.promoteSuccessor(of: record.id, point: point)
        }
        #expect(try catalog.bitmaps(ofVolume: volume.id) == [promoted])
        #expect(promoted.id == successor.id)
        #expect(promoted.name == "daily" && promoted.successorOf == nil)
        #expect(promoted.continues == point.reference && promoted.pending == nil)
        #expect(try granules(of: promoted) == [7])
        #expect(try catalog.points() == [point])
        #expect(
            try runSQL("SELECT DISTINCT bitmapID FROM bitmap_chunk", on: directory.catalogPath)
                == ["\(promoted.id)"])
    }

    @Test func afterAPromotionTheNextBackupCanBegin() throws {
        _ = try freeze("p")
        let point = makePoint("p", of: volume, in: repository)
        let promoted = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.promoteSuccessor(of: record.id, point: point)
        }
        let next = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.freezeBitmap(promoted.id, for: reference("q"), chunks: [])
        }
        #expect(next.successorOf == promoted.id)
        #expect(try catalog.bitmap(promoted.id).continues == point.reference)
    }

    @Test func aFailureMergesTheStoredBitsOfBoth() throws {
        let successor = try freeze("p", granules: [1, 2])
        try put([2, 9], in: successor)
        let merged = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.mergeSuccessorBack(into: record.id)
        }
        #expect(try catalog.bitmaps(ofVolume: volume.id) == [merged])
        #expect(merged == record)
        #expect(try granules(of: merged) == [1, 2, 9])
        #expect(try catalog.points().isEmpty)
    }

    @Test func chunksGivenToAMergeReplaceWhatIsStored() throws {
        let successor = try freeze("p", granules: [1])
        try put([2], in: successor)
        let memory = try bitmap(granules: [1, 2, 3]).takeDirtyChunks()
        _ = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.mergeSuccessorBack(into: record.id, chunks: memory)
        }
        #expect(try granules(of: record) == [1, 2, 3])
    }

    @Test func aSuccessorThatBecameInconsistentMakesTheMergeInconsistent() throws {
        var successor = try freeze("p")
        successor.inconsistency = "bits lost"
        let merged = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.updateBitmap(successor)
            return try transaction.mergeSuccessorBack(into: record.id)
        }
        #expect(merged.inconsistency == "bits lost")
    }

    @Test func whatMustNotBeFrozenIsRefusedAndNothingChanges() throws {
        let successor = try freeze("p")
        let before = try directory.catalogBytes()
        let refusals: [(id: Int64, kind: CatalogError.Kind, text: String)] = [
            (record.id, .busy, "the backup p is using it"),
            (successor.id, .other, "itself a successor"),
        ]
        for refusal in refusals {
            let error = catalogError {
                _ = try catalog.write { (transaction) throws(CatalogError) in
                    try transaction.freezeBitmap(refusal.id, for: reference("q"), chunks: [])
                }
            }
            #expect(error?.kind == refusal.kind)
            #expect(error?.detail.contains(refusal.text) == true)
        }
        #expect(try directory.catalogBytes() == before)
    }

    @Test func aFullBackupMayStartAnInconsistentBitmapAfresh() throws {
        var broken = try catalog.insertBitmap("broken", of: volume)
        broken.inconsistency = "the image changed"
        let point = makePoint("p", of: volume, in: repository)
        let promoted = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.updateBitmap(broken)
            _ = try transaction.freezeBitmap(broken.id, for: point.reference, chunks: [])
            return try transaction.promoteSuccessor(of: broken.id, point: point)
        }
        #expect(promoted.name == "broken")
        #expect(!promoted.isInconsistent)
        #expect(promoted.continues == point.reference)
    }

    @Test func onlyThePointThatWasRecordedPromotes() throws {
        let point = makePoint("p", of: volume, in: repository)
        func promote(_ point: PointRecord) throws {
            _ = try catalog.write { (transaction) throws(CatalogError) in
                try transaction.promoteSuccessor(of: record.id, point: point)
            }
        }
        #expect(catalogError { try promote(point) }?.detail == "no backup is using it")
        _ = try freeze("p")
        let error = catalogError { try promote(makePoint("q", of: volume, in: repository)) }
        #expect(error?.detail.contains("waits for p, not q") == true)
        #expect(try catalog.frozenBitmaps().count == 1)
        #expect(try catalog.points().isEmpty)
    }

    @Test func aFrozenBitmapAndItsSuccessorCannotBeRemoved() throws {
        let successor = try freeze("p")
        for id in [record.id, successor.id] {
            let error = catalogError {
                try catalog.write { (transaction) throws(CatalogError) in
                    try transaction.deleteBitmap(id)
                }
            }
            #expect(error?.kind == .busy)
        }
        let error = catalogError {
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.deleteRepository(repository.id)
            }
        }
        #expect(error?.kind == .busy)
        #expect(error?.detail.contains("not settled") == true)
    }
}

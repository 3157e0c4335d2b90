import Bitmaps
import BlockCore
import Catalog
import Foundation
import Testing

@Suite struct CatalogCopyTests {
    @Test func aCopyHasTheListsAndNoBits() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let (volume, repository) = try catalog.insertFixture()
        let bitmap = try catalog.insertBitmap("nightly", of: volume)
        let point = PointReference(repositoryID: repository.id, pointID: "p1")
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.upsertPoint(makePoint("p1", of: volume, in: repository))
            var continued = bitmap
            continued.continues = point
            try transaction.updateBitmap(continued)
            try transaction.putChunks([BitmapChunk(index: 0, bytes: [1])], ofBitmap: bitmap.id)
            try transaction.announce([3], ofVolume: volume.id)
        }
        let other = try TemporaryDirectory()
        try catalog.copyLists(to: other.catalogPath)

        let copy = try Catalog(directory: other.path)
        #expect(try copy.volumes().map(\.uuid) == [volume.uuid])
        #expect(try copy.nodes(ofVolume: volume.id).map(\.path) == ["/a.qcow2"])
        #expect(try copy.repositories().map(\.name) == ["repo-a"])
        #expect(try copy.points().map(\.id) == ["p1"])
        #expect(try copy.identity() == catalog.identity())
        let copied = try #require(try copy.bitmaps(ofVolume: volume.id).first)
        #expect(copied.isInconsistent)
        #expect(copied.continues == point)
        #expect(try copy.announcedRegions(ofVolume: volume.id).isEmpty)
        #expect(try runSQL("SELECT count(*) FROM bitmap_chunk", on: other.catalogPath) == ["0"])
    }

    @Test func aBackupUnderWayIsNotInACopy() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let (volume, repository) = try catalog.insertFixture()
        let bitmap = try catalog.insertBitmap("nightly", of: volume)
        try catalog.write { (transaction) throws(CatalogError) in
            var frozen = bitmap
            frozen.pending = PointReference(repositoryID: repository.id, pointID: "p1")
            try transaction.updateBitmap(frozen)
            _ = try transaction.insertBitmap(
                BitmapRecord(
                    volumeID: volume.id, name: nil, granularityBytes: 65536,
                    successorOf: bitmap.id))
        }
        let other = try TemporaryDirectory()
        try catalog.copyLists(to: other.catalogPath)
        let copy = try Catalog(directory: other.path)
        let bitmaps = try copy.bitmaps(ofVolume: volume.id)
        #expect(bitmaps.map(\.name) == ["nightly"])
        #expect(bitmaps.first?.pending == nil)
    }

    @Test func aCopyIsMadeWhileOthersCommit() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let (volume, _) = try catalog.insertFixture()
        let writer = Thread {
            for region in 0..<200 { try? catalog.announce([UInt64(region)], ofVolume: volume.id) }
        }
        writer.start()
        for _ in 0..<5 {
            let other = try TemporaryDirectory()
            try catalog.copyLists(to: other.catalogPath)
            #expect(try Catalog(directory: other.path).volumes().count == 1)
        }
        while !writer.isFinished { usleep(1000) }
        #expect(try catalog.announcedRegions(ofVolume: volume.id).count == 200)
    }

    @Test func aCopyReplacesNothing() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let path = "\(directory.path)/taken"
        try Data("mine".utf8).write(to: URL(fileURLWithPath: path))
        #expect(catalogError { try catalog.copyLists(to: path) }?.kind == .duplicate)
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "mine")
    }
}

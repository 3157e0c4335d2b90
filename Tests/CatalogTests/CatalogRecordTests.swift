import Bitmaps
import BlockCore
import Catalog
import Foundation
import Testing

@Suite struct CatalogRecordTests {
    private let directory: TemporaryDirectory
    private let catalog: Catalog

    init() throws {
        directory = try TemporaryDirectory()
        catalog = try Catalog(directory: directory.path)
    }

    @Test func volumesAndTheirNodesComeBackAsTheyWentIn() throws {
        let nodes = [
            NodeRecord(
                format: "qcow2", path: "/top", isOwned: true, fingerprint: "5:6:7", isDirect: true),
            NodeRecord(format: "raw", path: "/base", isOwned: false),
        ]
        let volume = try catalog.write { (transaction) throws(CatalogError) in
            try transaction.insertVolume(
                VolumeRecord(
                    name: "é", lengthBytes: 513, createdAt: Date(), isCleanlyClosed: false,
                    regionBytes: 4 << 20), nodes: nodes)
        }
        let read = try catalog.volume(named: "é")
        #expect(abs(read.createdAt.timeIntervalSince(volume.createdAt)) < 0.000_002)
        var exact = read
        exact.createdAt = volume.createdAt
        #expect(exact == volume)
        #expect(try catalog.nodes(ofVolume: volume.id) == nodes)

        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.setCleanlyClosed(true, volume: volume.id)
            try transaction.setLength(1024, regionBytes: 512, volume: volume.id)
            try transaction.setNodes([nodes[1]], ofVolume: volume.id)
            try transaction.setFingerprints(["8:9"], ofVolume: volume.id)
            try transaction.beat([volume.id], at: Date(timeIntervalSince1970: 1_700_000_000))
        }
        let changed = try catalog.volume(named: "é")
        #expect(changed.isCleanlyClosed && changed.lengthBytes == 1024)
        #expect(changed.heartbeatAt == Date(timeIntervalSince1970: 1_700_000_000))
        let node = try catalog.nodes(ofVolume: volume.id)
        #expect(node.map(\.path) == ["/base"] && node.map(\.fingerprint) == ["8:9"])
        let tooMany = catalogError {
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.setFingerprints(["8:9", "10"], ofVolume: volume.id)
            }
        }
        #expect(tooMany?.kind == .notFound)
    }

    @Test func aNameIsTakenOnce() throws {
        _ = try catalog.insertFixture(volume: "a")
        let error = catalogError { _ = try catalog.insertFixture(volume: "a") }
        #expect(error?.kind == .duplicate)
        #expect(error?.description.contains("insert the volume a") == true)
        #expect(try catalog.repositories().count == 1)
    }

    @Test func whatIsNotThereIsNotFound() throws {
        let failures: [(CatalogTransaction) throws -> Void] = [
            { _ = try $0.volume(named: "x") }, { _ = try $0.bitmap(7) },
            { _ = try $0.repository(named: "x") }, { try $0.deleteVolume(7) },
            { try $0.setCleanlyClosed(true, volume: 7) }, { try $0.deleteBitmap(7) },
            { try $0.deletePoint(PointReference(repositoryID: 7, pointID: "x")) },
            { try $0.deleteRepository(7) }, { try $0.announce([1], ofVolume: 7) },
            { try $0.putChunks([BitmapChunk(index: 0, bytes: [1])], ofBitmap: 7) },
        ]
        for (index, failure) in failures.enumerated() {
            let error = catalogError {
                try catalog.write { (transaction) throws(CatalogError) in
                    if let error = catalogError({ try failure(transaction) }) { throw error }
                }
            }
            #expect(error?.kind == .notFound, "failure \(index): \(String(describing: error))")
        }
    }

    @Test func aNumberThatSQLiteCannotHoldIsAnError() throws {
        let volume = try catalog.insertFixture().volume
        let error = catalogError { try catalog.announce([1, 1 << 63], ofVolume: volume.id) }
        #expect(error?.detail.contains("2^63") == true)
        #expect(try catalog.announcedRegions(ofVolume: volume.id).isEmpty)
    }

    @Test func theActivityLogHoldsEachRegionOnce() throws {
        let (one, other) = (
            try catalog.insertFixture(volume: "a").volume,
            try catalog.insertFixture(volume: "b").volume
        )
        try catalog.announce([5, 3, 5], ofVolume: one.id)
        try catalog.announce([3, 1 << 40], ofVolume: one.id)
        try catalog.announce([9], ofVolume: other.id)
        #expect(try catalog.announcedRegions(ofVolume: one.id) == [3, 5, 1 << 40])
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.removeRegions([3, 4], ofVolume: one.id)
        }
        #expect(try catalog.announcedRegions(ofVolume: one.id) == [5, 1 << 40])
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.clearRegions(ofVolume: one.id)
        }
        #expect(try catalog.announcedRegions(ofVolume: one.id).isEmpty)
        #expect(try catalog.announcedRegions(ofVolume: other.id) == [9])
    }

    @Test func bitsGoInAndOutByChunks() throws {
        let volume = try catalog.insertFixture().volume
        let record = try catalog.insertBitmap("b", of: volume)
        let bitmap = try DirtyBitmap(lengthBytes: 1 << 40, granularityBytes: 65536)
        for terabyteTenth in 0..<10 {
            bitmap.mark(.init(offset: UInt64(terabyteTenth) * (100 << 30), lengthBytes: 1))
        }
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.putChunks(bitmap.takeDirtyChunks(), ofBitmap: record.id)
        }
        let loaded = try catalog.load(record, lengthBytes: 1 << 40)
        #expect(loaded.dirtyGranuleCount == 10)
        #expect(loaded.isDirty(at: 900 << 30))

        bitmap.clear(.init(offset: 0, end: 850 << 30))
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.putChunks(bitmap.takeDirtyChunks(), ofBitmap: record.id)
        }
        #expect(try runSQL("SELECT count(*) FROM bitmap_chunk", on: directory.catalogPath) == ["1"])
        #expect(try catalog.load(record, lengthBytes: 1 << 40).dirtyGranuleCount == 1)
        let error = catalogError { _ = try catalog.load(record, lengthBytes: 1 << 20) }
        #expect(error?.kind == .corrupt)
    }

    @Test func removingAVolumeRemovesAllThatIsItsOwn() throws {
        let (volume, repository) = try catalog.insertFixture()
        let bitmap = try catalog.insertBitmap("b", of: volume)
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.upsertPoint(makePoint("p", of: volume, in: repository))
            try transaction.announce([1], ofVolume: volume.id)
            _ = try transaction.freezeBitmap(
                bitmap.id, for: PointReference(repositoryID: repository.id, pointID: "q"),
                chunks: [BitmapChunk(index: 0, bytes: [1])])
        }
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.deleteVolume(volume.id)
        }
        for table in ["volume", "node", "bitmap", "bitmap_chunk", "activity_region"] {
            let count = try runSQL("SELECT count(*) FROM \(table)", on: directory.catalogPath)
            #expect(count == ["0"], "\(table)")
        }
        #expect(try catalog.points().count == 1)
    }

    @Test func aNumberIsNeverUsedAgain() throws {
        let volume = try catalog.insertFixture().volume
        let first = try catalog.insertBitmap("b", of: volume)
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.deleteBitmap(first.id)
        }
        #expect(try catalog.insertBitmap("b", of: volume).id > first.id)
    }

    @Test func pointsAreFoundByVolumeAndRepository() throws {
        let (one, repository) = try catalog.insertFixture(volume: "a")
        let (other, second) = try catalog.insertFixture(volume: "b")
        let points = [
            makePoint("1", of: one, in: repository), makePoint("2", of: other, in: repository),
            makePoint("3", of: one, in: second),
        ]
        try catalog.write { (transaction) throws(CatalogError) in
            for point in points.reversed() { try transaction.upsertPoint(point) }
        }
        #expect(try catalog.points() == points)
        #expect(
            try catalog.points(ofVolume: one.uuid) == [points[0], points[2]])
        #expect(
            try catalog.points(ofVolume: one.uuid, inRepository: second.id)
                == [points[2]])
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.deletePoint(points[0].reference)
        }
        #expect(try catalog.points().map(\.id) == ["2", "3"])
    }

    @Test func forgettingAPointOrARepositoryUnbindsTheBitmapsThatContinueIt() throws {
        let (volume, repository) = try catalog.insertFixture()
        let point = makePoint("p", of: volume, in: repository)
        for name in ["point", "repository"] {
            var bitmap = try catalog.insertBitmap(name, of: volume)
            bitmap.continues = point.reference
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.upsertPoint(point)
                try transaction.updateBitmap(bitmap)
                if name == "point" {
                    try transaction.deletePoint(point.reference)
                } else {
                    try transaction.deleteRepository(repository.id)
                }
            }
            #expect(try catalog.bitmap(bitmap.id).continues == nil)
        }
        #expect(try catalog.repositories().isEmpty)
        #expect(try catalog.points().isEmpty)
    }

    @Test func distrustKeepsTheFirstReason() throws {
        let volume = try catalog.insertFixture().volume
        let (one, two) = (
            try catalog.insertBitmap("1", of: volume), try catalog.insertBitmap("2", of: volume)
        )
        for (id, reason) in [(one.id, "first"), (nil as Int64?, "second")] {
            try catalog.write { (transaction) throws(CatalogError) in
                if let id {
                    var bitmap = try transaction.bitmap(id)
                    bitmap.inconsistency = reason
                    try transaction.updateBitmap(bitmap)
                } else {
                    try transaction.distrustBitmaps(reason: reason)
                }
            }
        }
        #expect(try catalog.bitmap(one.id).inconsistency == "first")
        #expect(try catalog.bitmap(two.id).inconsistency == "second")
    }

    @Test func jobsAreKeptByRunAndForgottenByAge() throws {
        var jobs = [
            JobRecord(id: "j", type: "backup", state: "running", startedAt: wholeSeconds(10)),
            JobRecord(
                id: "j", type: "restore", state: "null", startedAt: wholeSeconds(20),
                endedAt: wholeSeconds(30), error: "no", detail: #"{"a":[1]}"#),
        ]
        func put(_ job: JobRecord) throws {
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.upsertJob(job)
            }
        }
        func unfinished() throws -> [JobRecord] {
            try catalog.read { (snapshot) throws(CatalogError) in try snapshot.unfinishedJobs() }
        }
        for job in jobs { try put(job) }
        #expect(try unfinished() == [jobs[0]])
        let running = jobs[0]
        jobs[0].state = "null"
        jobs[0].endedAt = wholeSeconds(40)
        try put(jobs[0])
        // What was on its way before the end changes nothing any more.
        try put(running)
        #expect(try unfinished().isEmpty)
        #expect(try catalog.jobs() == [jobs[1], jobs[0]])
        #expect(try catalog.jobs(limit: 1) == [jobs[1]])
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.deleteJobs(endedBefore: wholeSeconds(35))
        }
        #expect(try catalog.jobs() == [jobs[0]])
        jobs[0].detail = "no JSON"
        #expect(catalogError { try put(jobs[0]) }?.kind == .other)
    }
}

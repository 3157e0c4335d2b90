import Bitmaps
import BlockCore
import Catalog
import Foundation
import Testing

@Suite struct CommitTests {
    /// A backup's life, one transaction a step; each must be possible again after it failed.
    private static func steps(
        _ catalog: Catalog, _ volume: VolumeRecord, _ repository: RepositoryRecord,
        _ bitmap: BitmapRecord
    ) -> [() throws -> Void] {
        let point = makePoint("p", of: volume, in: repository)
        let chunk = BitmapChunk(index: 0, bytes: [UInt8](repeating: 3, count: 2048))
        func step(_ body: @escaping (CatalogTransaction) throws(CatalogError) -> Void)
            -> () throws -> Void
        {
            { try catalog.write(body) }
        }
        func successor(_ transaction: CatalogTransaction) throws(CatalogError) -> Int64 {
            try transaction.bitmaps(ofVolume: volume.id).last!.id
        }
        return [
            step { (transaction) throws(CatalogError) in
                try transaction.announce([1, 2, 3], ofVolume: volume.id)
            },
            step { (transaction) throws(CatalogError) in
                _ = try transaction.freezeBitmap(
                    bitmap.id, for: point.reference, chunks: [chunk])
                try transaction.clearRegions(ofVolume: volume.id)
            },
            step { (transaction) throws(CatalogError) in
                try transaction.putChunks([chunk], ofBitmap: try successor(transaction))
            },
            step { (transaction) throws(CatalogError) in
                _ = try transaction.mergeSuccessorBack(into: bitmap.id)
            },
            step { (transaction) throws(CatalogError) in
                _ = try transaction.freezeBitmap(bitmap.id, for: point.reference, chunks: [])
            },
            step { (transaction) throws(CatalogError) in
                _ = try transaction.promoteSuccessor(of: bitmap.id, point: point)
            },
            step { (transaction) throws(CatalogError) in
                try transaction.deleteVolume(volume.id)
            },
        ]
    }

    @Test func aFailedCommitLeavesTheFileAsItWasAndCanBeDoneAgain() throws {
        for failing in 0..<7 {
            let directory = try TemporaryDirectory()
            let fault = CommitFault(
                CatalogError(.full, "commit", on: "test", detail: "injected"))
            let catalog = try Catalog(directory: directory.path, failCommit: { fault.next() })
            let (volume, repository) = try catalog.insertFixture()
            let bitmap = try catalog.insertBitmap("b", of: volume)
            let steps = Self.steps(catalog, volume, repository, bitmap)
            try #require(steps.count == 7)
            fault.arm(failing)
            for (number, step) in steps.enumerated() {
                let before = try directory.catalogBytes()
                let error = catalogError(step)
                if number == failing {
                    #expect(error?.detail == "injected")
                    #expect(try directory.catalogBytes() == before, "step \(number)")
                    try step()
                } else {
                    #expect(error == nil, "step \(number) of the run that fails \(failing)")
                }
                #expect(try directory.catalogBytes() != before, "step \(number)")
            }
        }
    }

    @Test func anErrorInTheBodyTakesEverythingBack() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        let before = try directory.catalogBytes()
        let error = catalogError {
            try catalog.write { (transaction) throws(CatalogError) in
                try transaction.announce([1, 2], ofVolume: volume.id)
                try transaction.deleteBitmap(99)
            }
        }
        #expect(error?.kind == .notFound)
        #expect(try catalog.announcedRegions(ofVolume: volume.id).isEmpty)
        #expect(try directory.catalogBytes() == before)
    }

    @Test func aCrashKeepsWhatWasCommittedAndNothingElse() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        try catalog.announce([1, 2], ofVolume: volume.id)
        var copies: [(copy: TemporaryDirectory, regions: [UInt64])] = []
        copies.append((try directory.copyOfCatalog(), [1, 2]))
        var middle: TemporaryDirectory?
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.announce([3], ofVolume: volume.id)
            middle = try? directory.copyOfCatalog()
        }
        copies.append((try #require(middle), [1, 2]))
        copies.append((try directory.copyOfCatalog(), [1, 2, 3]))
        for (copy, regions) in copies {
            let reopened = try Catalog(directory: copy.path)
            #expect(
                try reopened.announcedRegions(ofVolume: volume.id) == regions)
        }
    }

    @Test func aLockedFileIsBusy() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        let other = try Catalog(directory: directory.path)
        let clock = ContinuousClock()
        let start = clock.now
        var error: CatalogError?
        try catalog.write { (transaction) throws(CatalogError) in
            try transaction.announce([1], ofVolume: volume.id)
            error = catalogError { try other.announce([2], ofVolume: volume.id) }
        }
        #expect(error?.kind == .busy)
        #expect(clock.now - start < .seconds(30))
    }

    @Test func concurrentAnnouncementsAreAllThere() async throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        await withTaskGroup { group in
            for worker in 0..<4 as Range<UInt64> {
                group.addTask {
                    for index in 0..<50 as Range<UInt64> {
                        let error = catalogError {
                            try catalog.announce([worker * 50 + index], ofVolume: volume.id)
                        }
                        #expect(error == nil)
                    }
                }
            }
        }
        #expect(
            try catalog.announcedRegions(ofVolume: volume.id) == Array(0..<200))
    }

    @Test func theCostOfCommitsIsPrinted() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        let bitmap = try catalog.insertBitmap("b", of: volume)
        let measurements: [(name: String, commit: (UInt64) throws -> Void)] = [
            ("1 region", { try catalog.announce([$0], ofVolume: volume.id) }),
            (
                "32 regions",
                { number in
                    try catalog.announce(
                        (0..<32).map { 10_000 + number * 32 + $0 }, ofVolume: volume.id)
                }
            ),
            (
                "a 4 KiB chunk",
                { number in
                    let bytes = [UInt8](repeating: UInt8(number % 256), count: 4096)
                    let chunk = BitmapChunk(index: 0, bytes: bytes)
                    try catalog.write { (transaction) throws(CatalogError) in
                        try transaction.putChunks([chunk], ofBitmap: bitmap.id)
                    }
                }
            ),
        ]
        for (name, commit) in measurements {
            let clock = ContinuousClock()
            var times: [Duration] = []
            for number in 0..<500 as Range<UInt64> {
                let start = clock.now
                try commit(number)
                times.append(clock.now - start)
            }
            times.sort()
            let (median, late) = (times[250] / .microseconds(1), times[495] / .microseconds(1))
            print("committing \(name): median \(Int(median)) µs, p99 \(Int(late)) µs")
        }
        #expect(
            try catalog.announcedRegions(ofVolume: volume.id).count == 33 * 500)
    }
}

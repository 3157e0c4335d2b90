import BlockCore
import Catalog
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Volumes

/// What announcements cost and survive.
@Suite struct DurabilityTests {
    @Test func concurrentAnnouncementsOfSeveralVolumesShareOneCommit() async throws {
        let directory = try TemporaryDirectory()
        let commits = Atomic<Int>(0)
        let catalog = try Catalog(
            directory: directory.path,
            failCommit: {
                commits.wrappingAdd(1, ordering: .relaxed)
                return nil
            })
        let queue = CatalogQueue(catalog: catalog)
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        var volumes: [Volume] = []
        for number in 0..<3 {
            volumes.append(
                try await store.create(
                    VolumeSpecification(
                        name: "disk-\(number)", lengthBytes: 8 << 20, format: .raw,
                        durability: number == 0 ? .power : .process)))
        }
        let before = commits.load(ordering: .relaxed)
        // The catalog's thread is busy until all writers have come.
        let gate = DispatchSemaphore(value: 0)
        queue.submit { _ in gate.wait() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for volume in volumes {
                for region in UInt64(0)..<4 {
                    group.addTask { try await volume.write([1], at: region << 20) }
                }
            }
            while queue.waitingCount < 12 { try await Task.sleep(for: .milliseconds(1)) }
            gate.signal()
            try await group.waitForAll()
        }
        #expect(commits.load(ordering: .relaxed) == before + 1)
        #expect(try catalog.writerSettings().synchronous == 2)
        for volume in volumes { #expect(try queue.announced(volume) == [0, 1, 2, 3]) }
        _ = await store.closeAll()
    }

    @Test func onlyAVolumeThatAsksForLessCommitsWithoutWaitingForTheMedium() async throws {
        let directory = try TemporaryDirectory()
        let queue = CatalogQueue(catalog: try Catalog(directory: directory.path))
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        func volume(_ durability: Durability) async throws -> Volume {
            try await store.create(
                VolumeSpecification(
                    name: "\(durability)", lengthBytes: 8 << 20, format: .raw,
                    durability: durability))
        }
        let (power, process) = (try await volume(.power), try await volume(.process))
        for round in UInt64(0)..<2 {
            try await process.write([1], at: round << 20)
            #expect(try queue.catalog.writerSettings().synchronous == 1)
            try await power.write([1], at: round << 20)
            #expect(try queue.catalog.writerSettings().synchronous == 2)
        }
        // Everything but announcements is as durable as ever.
        try await process.write([1], at: 5 << 20)
        try await process.addBitmap("changes")
        #expect(try queue.catalog.writerSettings().synchronous == 2)
        _ = await store.closeAll()
    }

    @Test(arguments: Durability.allCases, [false, true])
    func afterACrashOnlyWhatTheDurabilityPromisesIsBelieved(
        durability: Durability, theHostWentDown: Bool
    ) async throws {
        let fixture = try VolumeFixture()
        let (store, queue) = try await fixture.start()
        let volume = try await store.add(
            "disk", path: fixture.imagePath, format: .raw, durability: durability
        ).volume
        try await volume.addBitmap("changes", granularityBytes: VolumeFixture.granularityBytes)
        try await volume.write([1], at: 0)
        if theHostWentDown {
            try queue.catalog.write { (transaction) throws(CatalogError) in
                try transaction.setOpened(volume: volume.id, bootID: "another")
            }
        }
        let recovered = try await fixture.restartAfterCrash()
        let status = try #require(recovered.bitmapStatuses().first)
        if durability == .process, theHostWentDown {
            #expect(status.inconsistentReason?.contains("the host went down") == true)
        } else {
            #expect(status.inconsistentReason == nil)
            #expect(status.dirtyBytes == VolumeFixture.regionBytes)
        }
        try await volume.close()
    }

    @Test func aCleanCloseIsBelievedWhateverTheDurability() async throws {
        let fixture = try VolumeFixture()
        let (store, queue) = try await fixture.start()
        let volume = try await store.add(
            "disk", path: fixture.imagePath, format: .raw, durability: .process
        ).volume
        try await volume.addBitmap("changes")
        try await volume.close()
        try queue.catalog.write { (transaction) throws(CatalogError) in
            try transaction.setOpened(volume: volume.id, bootID: "another")
            try transaction.setCleanlyClosed(true, volume: volume.id)
        }
        try queue.catalog.close()
        let reopened = try await fixture.start().store.volume("disk")
        #expect(reopened.bitmapStatuses().first?.inconsistentReason == nil)
        try await reopened.close()
    }
}

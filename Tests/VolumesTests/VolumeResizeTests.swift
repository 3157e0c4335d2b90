import BlockCore
import Catalog
import DriverQcow2
import Foundation
import TestSupport
import Testing

@testable import Volumes

@Suite struct VolumeResizeTests {
    private static let granule = VolumeFixture.granularityBytes

    @Test func aGrowthIsDirtyAndZeroAlsoAfterACrash() async throws {
        let fixture = try VolumeFixture(lengthBytes: (1 << 20) + 100)
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.addBitmap("disabled", isRecording: false)
        try await volume.write([1], at: 0)
        try await volume.resize(to: 5 << 20)
        #expect(volume.lengthBytes == 5 << 20)
        // The granule in which the old end was counts as new, too.
        let expected = [
            ByteRange(offset: 0, lengthBytes: Self.granule),
            ByteRange(offset: 1 << 20, end: 5 << 20),
        ]
        #expect(try volume.dirtyRanges("changes") == expected)
        #expect(try volume.dirtyRanges("disabled").isEmpty)
        #expect(try await volume.contents()[1...].allSatisfy { $0 == 0 })
        let recovered = try await fixture.restartAfterCrash()
        #expect(recovered.lengthBytes == 5 << 20)
        #expect(try recovered.dirtyRanges("changes") == expected)
        #expect(recovered.bitmapStatuses().allSatisfy { $0.inconsistentReason == nil })
        try await volume.write([7], at: (5 << 20) - 1)
        try await volume.close()
    }

    @Test func aCutForgetsWhatIsBeyondItAndAGrowthAfterItShowsZeroes() async throws {
        let fixture = try VolumeFixture(lengthBytes: 8 << 20)
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([UInt8](repeating: 9, count: 2 << 20), at: 3 << 20)
        await #expect(throws: BlockError.self) { try await volume.resize(to: 4 << 20) }
        #expect(volume.lengthBytes == 8 << 20)
        try await volume.resize(to: 4 << 20, mayCut: true)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 3 << 20, end: 4 << 20)])
        await #expect(throws: BlockError.self) { try await volume.write([1], at: 4 << 20) }
        try await volume.resize(to: 8 << 20)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 3 << 20, end: 8 << 20)])
        #expect(try await volume.contents()[(4 << 20)...].allSatisfy { $0 == 0 })
        try await volume.close()
        try queue.catalog.close()
        let reopened = try await fixture.start().store.volume("disk")
        #expect(
            try reopened.dirtyRanges("changes") == [ByteRange(offset: 3 << 20, end: 8 << 20)])
        try await reopened.close()
    }

    @Test func anOverlayThatGrowsHidesWhatItsBackingHoldsThere() async throws {
        let directory = try TemporaryDirectory()
        let base = directory.path("base.raw")
        try Data(repeating: 5, count: 4 << 20).write(to: URL(fileURLWithPath: base))
        let queue = CatalogQueue(catalog: try Catalog(directory: directory.path))
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        let volume = try await store.create(
            VolumeSpecification(
                name: "disk", lengthBytes: 2 << 20, format: .qcow2, backing: (base, .raw)))
        try await volume.resize(to: 3 << 20)
        let contents = try await volume.contents()
        #expect(contents[..<(2 << 20)].allSatisfy { $0 == 5 })
        #expect(contents[(2 << 20)...].allSatisfy { $0 == 0 })
        _ = await store.closeAll()
    }

    @Test func aResizeIsRefusedWhileABackupHoldsABitmapAndWhereABitmapWouldBeTooLarge()
        async throws
    {
        let fixture = try VolumeFixture()
        let (store, queue) = try await fixture.start()
        let volume = try await store.create(
            VolumeSpecification(name: "large", lengthBytes: 1 << 40, format: .qcow2))
        try await volume.addBitmap("fine", granularityBytes: 512)
        await #expect {
            try await volume.resize(to: 4 << 40)
        } throws: { error in
            "\(error)".contains("bitmap 'fine'") && "\(error)".contains("larger than 512 MiB")
        }
        #expect(volume.lengthBytes == 1 << 40)
        let repository = try queue.catalog.write { (transaction) throws(CatalogError) in
            try transaction.insertRepository(
                RepositoryRecord(uuid: UUID(), name: "vault", location: "/nowhere"))
        }
        _ = try await Freeze.take([
            FreezeRequest(
                volume: volume, bitmapName: "fine", granularityBytes: 512,
                point: PointReference(repositoryID: repository.id, pointID: "p"), parent: nil,
                fleece: FleeceLimits(directory: fixture.directory.path))
        ])
        await #expect {
            try await volume.resize(to: 2 << 40)
        } throws: { ($0 as? BlockError)?.kind == .busy }
        _ = await store.closeAll()
    }

    @Test func afterAResizeTheLogHasTheNewRegionsOnly() async throws {
        let fixture = try VolumeFixture()
        let (store, queue) = try await fixture.start()
        let volume = try await store.create(
            VolumeSpecification(name: "large", lengthBytes: 16 << 30, format: .qcow2))
        try await volume.addBitmap("changes")
        try await volume.write([1], at: 9 << 30)
        #expect(try queue.announced(volume) == [9 << 10])
        try await volume.resize(to: 64 << 30)
        #expect(try queue.announced(volume).isEmpty)
        try await volume.write([1], at: 9 << 30)
        #expect(try queue.announced(volume) == [9 << 8])
        _ = await store.closeAll()
    }

    @Test func aGrowthThatIsNotMarkedIsNoticed() async throws {
        func marksGrowth() async throws -> Bool {
            let fixture = try VolumeFixture(lengthBytes: 1 << 20)
            let (volume, _) = try await fixture.startWithVolume()
            try await volume.resize(to: 2 << 20)
            let dirty = try volume.dirtyRanges("changes")
            try await volume.close()
            return dirty == [ByteRange(offset: 1 << 20, end: 2 << 20)]
        }
        #expect(try await marksGrowth())
        Mutant.active = .growWithoutMarking
        defer { Mutant.active = nil }
        #expect(try await !marksGrowth())
    }
}

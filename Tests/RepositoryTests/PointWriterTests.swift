import BlockCore
import DriverQcow2
import Foundation
import TestSupport
import Testing

@testable import Repository

/// What a writer refuses, and what it leaves behind.
@Suite struct PointWriterTests {
    private let folder: TemporaryFolder
    private var volume = TestVolume(lengthBytes: 300_000)

    init() throws { folder = try TemporaryFolder() }

    private func begin(_ plan: PointPlan) async throws -> any PointWriter {
        let repository = try await DirectoryRepository.create(at: folder.path)
        return try await repository.beginPoint(plan)
    }

    @Test func aFullThatLeavesSomethingOutIsRefused() async throws {
        let writer = try await begin(try volume.plan(.full))
        try await writer.writeZeroes(ByteRange(offset: 0, lengthBytes: 65536))
        try await writer.writeZeroes(ByteRange(offset: 131_072, end: 300_000))
        await expectError(.invalid, "65536 bytes of 300000 were not written") {
            _ = try await writer.commit {}
        }
        #expect(try HostDirectory.names(in: writerFolder).isEmpty)
    }

    private var writerFolder: String {
        "\(folder.path)/\(VolumeFolder.name(volume: volume.name, uuid: volume.uuid))"
    }

    @Test func aRangeThatIsWrittenTwiceIsRefused() async throws {
        let writer = try await begin(try volume.plan(.full))
        try await writer.writeZeroes(ByteRange(offset: 0, end: 300_000))
        try await writer.write(at: 0, from: slice([UInt8](repeating: 1, count: 65536)))
        await expectError(.invalid, "written once") { _ = try await writer.commit {} }
        #expect(try HostDirectory.names(in: writerFolder).isEmpty)
    }

    @Test func piecesThatAreNoWholeClustersAreRefused() async throws {
        let writer = try await begin(try volume.plan(.full))
        let block = slice([UInt8](repeating: 1, count: 4096))
        await expectError(.invalid) { try await writer.write(at: 0, from: block) }
        await expectError(.invalid) { try await writer.write(at: 4096, from: block) }
        await expectError(.outOfRange) { try await writer.write(at: 327_680, from: block) }
        await expectError(.outOfRange) {
            try await writer.writeZeroes(ByteRange(offset: .max - 10, lengthBytes: 65536))
        }
        await expectError(.invalid) {
            try await writer.writeZeroes(ByteRange(offset: 0, lengthBytes: 100))
        }
        // A refusal stores nothing, so the writer can go on.
        try await writer.writeZeroes(ByteRange(offset: 0, end: 300_000))
        _ = try await writer.commit {}
    }

    @Test func aClosedWriterRefusesEverything() async throws {
        let writer = try await begin(try volume.plan(.full))
        try await writer.writeZeroes(ByteRange(offset: 0, end: 300_000))
        _ = try await writer.commit {}
        await expectError(.invalid, "closed") {
            try await writer.writeZeroes(ByteRange(offset: 0, end: 300_000))
        }
        await expectError(.invalid, "closed") { _ = try await writer.commit {} }
        await writer.abandon()
        #expect(try HostDirectory.names(in: writerFolder).count == 3)
    }

    @Test func whatIsBeingWrittenIsLockedAndWhatIsReadIsShared() async throws {
        let repository = try await DirectoryRepository.create(at: folder.path)
        let writer = try await repository.beginPoint(try volume.plan(.full))
        try await writer.writeZeroes(ByteRange(offset: 0, end: 300_000))
        let image = try #require(
            try HostDirectory.names(in: writerFolder).first { $0.hasSuffix(".qcow2.tmp") })
        await expectError(.busy, "open for writing") {
            _ = try ImageLock(path: "\(writerFolder)/\(image)", use: .reading)
        }
        let manifest = try await writer.commit {}
        let point = "\(writerFolder)/\(manifest.image.file)"
        let device = try await repository.openPoint(manifest.point)
        try Tool.check(["qemu-img", "info", point])
        let write = try Tool.run(["qemu-io", "-f", "qcow2", "-c", "write 0 4k", point])
        #expect(write.status != 0 && write.errors.contains("lock"))
        try await device.close()
        _ = try ImageLock(path: point, use: .writing)
    }

    @Test func anAbandonedWriterLeavesNothing() async throws {
        let writer = try await begin(try volume.plan(.full))
        try await writer.write(at: 0, from: slice([UInt8](repeating: 1, count: 65536)))
        #expect(writer.storedBytes == 65536)
        await writer.abandon()
        await writer.abandon()
        #expect(try HostDirectory.names(in: writerFolder).isEmpty)
        await expectError(.invalid, "closed") { _ = try await writer.commit {} }
    }

    @Test func aFailedWriteFailsTheCommitAndWithdrawsThePoint() async throws {
        let writer = try await begin(try volume.plan(.full))
        let piece = slice([UInt8](repeating: 1, count: 65536))
        try await writer.write(at: 0, from: piece)
        // The image that closes under the writer stands for a disk that fails.
        try #require(writer as? DirectoryPointWriter).image.abandon()
        await expectError(.invalid, "image is closed") {
            try await writer.write(at: 65536, from: piece)
        }
        await expectError(.invalid, "image is closed") {
            try await writer.writeZeroes(ByteRange(offset: 131_072, end: 300_000))
        }
        await expectError(.invalid, "image is closed") { _ = try await writer.commit {} }
        #expect(try HostDirectory.names(in: writerFolder).isEmpty)
    }

    @Test func plansThatMakeNoSenseAreRefused() async throws {
        var lab = try await TestRepository()
        let parent = lab.manifests[2]
        let good = try lab.volume.plan(.incremental)
        func refuse(_ text: String, _ body: (inout PointPlan) throws -> Void) async throws {
            var plan = good
            try body(&plan)
            let changed = plan
            await expectError(.invalid, text) { _ = try await lab.repository.beginPoint(changed) }
        }
        try await refuse("no uuid") { $0.volumeUUID = "../x" }
        try await refuse("another volume") { $0.volumeUUID = UUID().uuidString.lowercased() }
        try await refuse("granularity") { $0.granularityBytes = 65535 }
        try await refuse("granularity") { $0.granularityBytes = 256 }
        try await refuse("take a full") { $0.granularityBytes = 4096 }
        try await refuse("parent") { $0.parent = nil }
        try await refuse("parent") { $0.level = .full }
        try await refuse("above") { $0.id = lab.ids[0] }
        try await refuse("describe") { $0.lengthBytes = .max }
        try await refuse("taken") { plan in
            plan.id = parent.point
            plan.parent = lab.manifests[1]
        }
        lab.random = SplitMix64(seed: 1)
        #expect(try lab.folder.snapshot().keys.filter { $0.hasSuffix(".tmp") }.isEmpty)
        #expect(try await lab.repository.points().count == 3)
    }

    @Test func aMissingOrChangedParentIsRefused() async throws {
        let lab = try await TestRepository()
        let plan = try lab.volume.plan(.incremental)
        var changed = plan
        changed.parent?.contentDigest = String(repeating: "0", count: 64)
        let other = changed
        await expectError(.corrupt, "full backup") {
            _ = try await lab.repository.beginPoint(other)
        }
        try lab.remove(0, "json")
        await expectError(.notFound, lab.ids[0].text) {
            _ = try await lab.repository.beginPoint(plan)
        }
    }

    @Test func aParentThatVanishesMeanwhileFailsTheCommit() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        try lab.remove(2, "json")
        await expectError(.notFound, lab.ids[2].text) { _ = try await writer.commit {} }
        #expect(try await lab.repository.points().filter { $0.id == writer.plan.id }.isEmpty)
    }

    @Test func aDamagedTableBelowFailsTheCommit() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        try lab.flip(0, "digests", at: 64 + 17)
        await expectError(.corrupt, "SHA-256") { _ = try await writer.commit {} }
    }

    @Test func aChangedLengthWithoutItsEdgeIsRefused() async throws {
        var lab = try await TestRepository()
        let id = try PointID(after: lab.ids[2])
        var plan = try lab.volume.plan(.incremental, id: id)
        plan.lengthBytes = 500_000
        let writer = try await lab.repository.beginPoint(plan)
        #expect(writer.rangeToHold == ByteRange(offset: 458_752, end: 500_000))
        await expectError(.invalid, "length changed") { _ = try await writer.commit {} }
        lab.random = SplitMix64(seed: 1)
    }
}

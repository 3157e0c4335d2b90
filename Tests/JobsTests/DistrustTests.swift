import BlockCore
import Foundation
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// What the level auto makes of bitmaps and parents that cannot be relied on: it compares.
@Suite struct DistrustTests {
    @Test func anInconsistentBitmapLeadsToAComparison() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("inconsistent bitmap")
        try await lab.volume.write(at: 0, from: .holding(random.bytes(900_000)))
        let full = try await lab.makePoint()
        // Behind the bitmap's back: it records nothing any more.
        try await lab.distrust(lab.volume, "disk0.raw was changed by something else")
        try await lab.volume.write(at: 70_000, from: .holding(random.bytes(10)))
        try await lab.volume.writeZeroes(
            ByteRange(offset: 600_000, lengthBytes: 70_000), mayUnmap: true)
        let compared = try await lab.makePoint()
        #expect(compared.level == .incremental && compared.reason == .bitmapInconsistent)
        #expect(compared.explanation == "disk0.raw was changed by something else")
        #expect(compared.parent?.point == full.point)
        // Of cells of 4 KiB the one that changed, and those of which a part is zeroes now.
        #expect(compared.extents.dataBytes + compared.extents.zeroBytes == 4096 + 18 * 4096)
        try await lab.expectCurrent(compared.point)

        try await lab.change(&random)
        let next = try await lab.makePoint()
        #expect(next.reason == .bitmap && next.parent?.point == compared.point)
        try await lab.expectCurrent(next.point)
    }

    @Test func anUnchangedVolumeMakesAnEmptyPoint() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("unchanged")
        try await lab.change(&random)
        try await lab.makePoint()
        try await lab.distrust(lab.volume, "doubt")
        let compared = try await lab.makePoint()
        #expect(compared.level == .incremental && compared.image.storedBytes == 0)
        #expect(compared.extents.recordCount == 0)
        try await lab.expectCurrent(compared.point)
    }

    @Test func aBitmapThatIsGoneLeadsToAComparison() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("bitmap gone")
        try await lab.change(&random)
        try await lab.makePoint()
        try await lab.volume.removeBitmap("vault")
        try await lab.change(&random)
        let compared = try await lab.makePoint()
        #expect(compared.level == .incremental && compared.reason == .bitmapMissing)
        try await lab.expectCurrent(compared.point)
    }

    /// What the newest point depends on is damaged or gone: an older whole one is compared with.
    @Test(arguments: ["manifest", "image", "table", "digests"])
    func aDamagedParentLeadsToAComparisonWithAnOlderPoint(damage: String) async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("damaged parent")
        try await lab.change(&random)
        let full = try await lab.makePoint()
        try await lab.change(&random)
        let parent = try await lab.makePoint()
        try await lab.change(&random)
        switch damage {
        case "manifest":
            try FileManager.default.removeItem(atPath: try lab.path(of: parent, "json"))
        case "image":
            try FileManager.default.removeItem(atPath: try lab.path(of: parent, "qcow2"))
        case "table":
            try FileManager.default.removeItem(atPath: try lab.path(of: parent, "digests"))
        default:
            let file = try HostFile(
                path: try lab.path(of: parent, "digests"), access: .readWrite)
            try [UInt8(0xFF)].withBytes { (bytes) throws(BlockError) in
                try file.write(at: 64 + 20, from: bytes)
            }
        }
        let compared = try await lab.makePoint()
        #expect(compared.level == .incremental && compared.reason == .parentMissing)
        #expect(compared.parent?.point == full.point)
        #expect(compared.explanation?.contains(parent.point.text) == true)
        try await lab.expectCurrent(compared.point)
    }

    /// Trap: the base that the last good point needs was deleted.
    @Test func withoutAnyWholePointEverythingIsStored() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("no whole point")
        try await lab.change(&random)
        let full = try await lab.makePoint()
        try await lab.change(&random)
        try await lab.makePoint()
        try FileManager.default.removeItem(atPath: try lab.path(of: full, "qcow2"))
        let fresh = try await lab.makePoint()
        #expect(fresh.level == .full && fresh.reason == .parentMissing)
        let device = try await lab.repository.repository.openPoint(fresh.point)
        let now = try await lab.volume.bytes(at: 0, Int(lab.volume.lengthBytes))
        #expect(try await device.bytes(at: 0, now.count) == now)
        try await device.close()
    }

    @Test func anIncrementalRefusesWhereAutoCompares() async throws {
        let lab = try await BackupLab()
        try await lab.makePoint()
        try await lab.distrust(lab.volume, "somebody wrote it")
        let error = await #expect(throws: BlockError.self) {
            try await lab.run(lab.backup(.incremental))
        }
        #expect(error?.description.contains("bitmap-inconsistent: somebody wrote it") == true)
        #expect(try await lab.points().count == 1)
        // Nothing was touched by the refusal.
        #expect(lab.volume.frozenBitmaps().isEmpty)
    }

    /// Trap: a full was refused because of old state.
    @Test func aFullDependsOnNothing() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("full")
        try await lab.change(&random)
        let first = try await lab.makePoint()
        try FileManager.default.removeItem(atPath: try lab.path(of: first, "digests"))
        try await lab.distrust(lab.volume, "doubt")
        for prepare in [
            {}, { try await lab.distrust(lab.volume, "doubt") },
            { try await lab.volume.setBitmap("vault", recording: false) },
            { try await lab.volume.removeBitmap("vault") },
        ] as [() async throws -> Void] {
            try await prepare()
            try await lab.change(&random)
            let full = try await lab.makePoint(.full)
            #expect(full.level == .full && full.parent == nil && full.reason == .requested)
            try await lab.change(&random)
            let next = try await lab.makePoint()
            #expect(next.reason == .bitmap && next.parent?.point == full.point)
            let content = try await lab.content(of: next.point)
            #expect(content == (try await lab.volume.bytes(at: 0, content.count)))
        }
    }
}

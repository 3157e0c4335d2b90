import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// When bitmaps are believed at the next open, and when not.
@Suite struct TrustTests {
    /// Age of the last heartbeat at a crash, and whether the image's last change can be ours.
    @Test(arguments: [(0.0, true), (10, true), (20, false), (3600, false)])
    func afterACrashTheHeartbeatBoundsWhatCanBeOurs(ageSeconds: Double, isOurs: Bool) async throws {
        #expect(try await isBelieved(afterCrashWithHeartbeatOf: ageSeconds) == isOurs)
    }

    @Test func believingALateImageIsNoticed() async throws {
        Mutant.active = .trustLateImage
        defer { Mutant.active = nil }
        #expect(try await isBelieved(afterCrashWithHeartbeatOf: 20))
    }

    // Whether a bitmap is, whose image is touched after a crash when the last heartbeat was so old.
    private func isBelieved(afterCrashWithHeartbeatOf ageSeconds: Double) async throws -> Bool {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await queue.run { [id = volume.id] (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.beat([id], at: Date(timeIntervalSinceNow: -ageSeconds))
            }
        }
        try Tool.check(["touch", fixture.imagePath])
        let recovered = try await fixture.restartAfterCrash()
        let isBelieved = recovered.doubt == nil
        #expect((recovered.bitmapStatuses()[0].inconsistentReason == nil) == isBelieved)
        try await recovered.close()
        try await volume.close()
        return isBelieved
    }

    @Test func aReasonIsKeptAndTheBitmapRecordsNoMore() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        let volume = try await store.add("disk", path: fixture.imagePath, format: .raw).volume
        try await volume.addBitmap("changes")
        #expect(await store.closeAll().isEmpty)
        try Tool.check(["touch", "-d", "2020-01-01T12:00:00Z", fixture.imagePath])
        for _ in 0..<2 {
            let again = try await fixture.start().store
            let reopened = try await again.volume("disk")
            #expect(reopened.bitmapStatuses()[0].inconsistentReason?.contains("2020-01-01") == true)
            try await reopened.write([1], at: 0)
            #expect(try reopened.dirtyRanges("changes").isEmpty)
            // A new one is as good as ever.
            if reopened.bitmapStatuses().count == 1 { try await reopened.addBitmap("fresh") }
            #expect(reopened.bitmapStatuses()[1].inconsistentReason == nil)
            #expect(await again.closeAll().isEmpty)
        }
    }

    @Test func aFailedCloseLeavesAnUncleanStop() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) { try await volume.close() }
        let recovered = try await fixture.restartAfterCrash()
        #expect(recovered.doubt == nil)
        #expect(try !recovered.dirtyRanges("changes").isEmpty)
        try await recovered.close()
    }

    /// By something that knows no locks.
    @Test func aBackingFileThatChangesUnderAnOpenVolumeIsNotBelieved() async throws {
        let fixture = try VolumeFixture()
        let (base, top) = (fixture.directory.path("base.raw"), fixture.directory.path("top.qcow2"))
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", base, "1M"])
        try Tool.check(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top])
        let (store, _) = try await fixture.start()
        let volume = try await store.add("disk", path: top, format: .qcow2).volume
        try await volume.addBitmap("changes")
        try await volume.write([1], at: 0)
        try Tool.check(["touch", base])
        #expect(await store.closeAll().isEmpty)
        let again = try await fixture.start().store
        #expect(try await again.volume("disk").doubt?.contains(base) == true)
        #expect(await again.closeAll().isEmpty)
    }

    @Test(arguments: ["raw", "qcow2"])
    func aRowWithoutAFingerprintIsNotBelieved(format: String) async throws {
        let fixture = try VolumeFixture()
        let image = fixture.directory.path("other.img")
        try Tool.check(["qemu-img", "create", "-q", "-f", format, image, "1M"])
        let (store, queue) = try await fixture.start()
        let volume = try await store.add(
            "disk", path: image, format: ImageFormat(rawValue: format)
        ).volume
        try await volume.addBitmap("changes")
        #expect(await store.closeAll().isEmpty)
        try await queue.run { [id = volume.id] (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                var nodes = try transaction.nodes(ofVolume: id)
                nodes[0].fingerprint = nil
                try transaction.setNodes(nodes, ofVolume: id)
            }
        }
        let again = try await fixture.start().store
        #expect(try await again.volume("disk").doubt?.contains("no fingerprint") == true)
        #expect(await again.closeAll().isEmpty)
    }

    @Test func namesOfBackingFilesAreRead() throws {
        for (name, path) in [
            ("base", "/images/base"), ("./a:b", "/images/./a:b"), ("/x/base", "/x/base"),
            ("file:base", "/images/base"), ("sub/a:b", "/images/sub/a:b"),
            ("nbd+unix:///d?socket=/s", "nbd+unix:///d?socket=/s"),
        ] {
            #expect(try ImageOpener.resolve(name, from: "/images/top") == path)
        }
        for name in ["rbd:pool/image", "https://host/image", "a:b"] {
            let error = #expect(throws: BlockError.self) {
                try ImageOpener.resolve(name, from: "/images/top")
            }
            #expect(error?.kind == .unsupported && error?.description.contains(name) == true)
        }
    }
}

import BlockCore
import Catalog
import DriverQcow2
import DriverRaw
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Volumes

@Suite struct SnapshotTests {
    private func fixture(
        _ format: ImageFormat
    ) async throws -> (VolumeFixture, VolumeStore, Volume) {
        let fixture = try VolumeFixture(lengthBytes: 3 << 20)
        let (store, _) = try await fixture.start()
        let path = fixture.directory.path("base.\(format.rawValue)")
        let volume = try await store.create(
            VolumeSpecification(name: "disk", lengthBytes: 3 << 20, format: format, path: path))
        try await volume.addBitmap("changes", granularityBytes: 64 << 10)
        return (fixture, store, volume)
    }

    @Test(arguments: [ImageFormat.qcow2, .raw])
    func writesGoToTheOverlayAndTheOldImageStays(format: ImageFormat) async throws {
        let (fixture, store, volume) = try await fixture(format)
        try await volume.write([UInt8](repeating: 1, count: 200_000), at: 1_000)
        let before = try await volume.contents()
        let overlay = fixture.directory.path("overlay.qcow2")
        try await store.snapshot("disk", to: overlay)

        #expect(
            volume.imagePaths.map { ($0 as NSString).lastPathComponent }
                == ["overlay.qcow2", "base.\(format.rawValue)"])
        #expect(try await volume.contents() == before)
        try await volume.write([2, 3], at: 70_000)
        try await volume.writeZeroes(
            ByteRange(offset: 100_000, lengthBytes: 50_000), mayUnmap: true)
        let after = try await volume.contents()
        #expect(after[70_000] == 2 && after[100_000] == 0 && after[1_000] == 1)
        #expect(try volume.dirtyRanges("changes").first == ByteRange(offset: 0, end: 262_144))
        #expect(volume.isReadOnly == false)

        await #expect(throws: Never.self) { try await volume.close() }
        let (again, _) = try await fixture.start()
        let reopened = try await again.volume("disk")
        #expect(reopened.doubt == nil)
        #expect(try await reopened.contents() == after)
        #expect(reopened.imagePaths == volume.imagePaths)
        try await reopened.close()
        let base = try ImageOpener.open(
            path: volume.imagePaths[1], format: format, readOnly: true, pool: .guest)
        #expect(try await base.top.bytes(at: 0, before.count) == before)
        try Tool.check(["qemu-img", "check", overlay])
        if format == .qcow2 { try Tool.check(["qemu-img", "check", volume.imagePaths[1]]) }
    }

    @Test(arguments: [ImageFormat.qcow2, .raw])
    func afterAnUncleanStopTheChainAndItsBitmapsAreTrusted(format: ImageFormat) async throws {
        let (fixture, store, volume) = try await fixture(format)
        try await volume.write([UInt8](repeating: 7, count: 300_000), at: 0)
        try await store.snapshot("disk", to: fixture.directory.path("overlay.qcow2"))
        try await volume.write([9], at: 2 << 20)
        let content = try await volume.contents()
        // As the end of the process leaves it: nothing is closed, the locks go.
        volume.chain.unlock()
        let (again, _) = try await fixture.start()
        let reopened = try await again.volume("disk")
        #expect(reopened.doubt == nil, "\(reopened.doubt ?? "")")
        #expect(try await reopened.contents() == content)
        #expect(
            try reopened.dirtyRanges("changes").contains {
                $0.contains(ByteRange(offset: 2 << 20, lengthBytes: 1))
            })
    }

    @Test func relativePathsNameTheBackingFromTheOverlaysFolder() async throws {
        let (fixture, store, volume) = try await fixture(.qcow2)
        try HostDirectory.create(fixture.directory.path("snapshots"))
        let overlay = fixture.directory.path("snapshots/overlay.qcow2")
        try await store.snapshot("disk", to: overlay, mode: .relativePaths)
        #expect(try Qcow2Device.readHeader(path: overlay).backing?.name == "../base.qcow2")
        #expect(volume.imagePaths.count == 2)
    }

    @Test(arguments: [
        ("/a/b/base", "/a/b/over", "base"), ("/a/base", "/a/b/over", "../base"),
        ("/base", "/a/b/over", "../../base"), ("/x/y/base", "/a/over", "../x/y/base"),
        ("/a/b:c", "/a/over", "./b:c"), ("/a/b/c/base", "/a/over", "b/c/base"),
    ])
    func relativeNames(backing: String, overlay: String, expected: String) {
        #expect(NewImageMode.relativePaths.name(of: backing, from: overlay) == expected)
        #expect(NewImageMode.absolutePaths.name(of: backing, from: overlay) == backing)
    }

    @Test func anExistingImageHasToNameTheTop() async throws {
        let (fixture, store, volume) = try await fixture(.qcow2)
        let good = fixture.directory.path("good.qcow2")
        try Qcow2Device.create(
            path: good, lengthBytes: 3 << 20,
            backing: Qcow2Backing(name: "base.qcow2", format: "qcow2"))
        let bad = fixture.directory.path("bad.qcow2")
        try Qcow2Device.create(path: bad, lengthBytes: 3 << 20)
        await #expect(throws: BlockError.self) {
            try await store.snapshot("disk", to: bad, mode: .existing)
        }
        #expect(volume.imagePaths.count == 1)
        try await store.snapshot("disk", to: good, mode: .existing)
        #expect(volume.imagePaths.count == 2)
    }

    /// Whatever commit fails, the volume goes on with the images that it has, and what is written
    /// then is there after a crash.
    @Test(arguments: 1...3)
    func aCommitThatFailsLeavesTheVolumeWhereItWas(number: Int) async throws {
        let fixture = try VolumeFixture(lengthBytes: 3 << 20)
        let (store, _) = try await fixture.start()
        let volume = try await store.add("disk", path: fixture.imagePath, format: .raw).volume
        try await volume.write([1, 2, 3], at: 5_000)
        let overlay = fixture.directory.path("overlay.qcow2")
        fixture.commitFailure.fail(number)
        do {
            try await store.snapshot("disk", to: overlay)
            #expect(volume.imagePaths.count == 2)
        } catch {
            #expect(volume.imagePaths.count == 1)
            #expect(!FileManager.default.fileExists(atPath: overlay))
        }
        try await volume.write([4], at: 6_000)
        let content = try await volume.contents()
        #expect(Array(content[5_000..<5_003]) == [1, 2, 3] && content[6_000] == 4)
        volume.chain.unlock()
        let (again, _) = try await fixture.start()
        #expect(try await again.volume("disk").contents() == content)
    }

    /// Guests write and read through a dozen snapshots, and a model says what they must read.
    @Test func snapshotsUnderGuestsThatNeverStop() async throws {
        let (fixture, store, volume) = try await fixture(.qcow2)
        let over = Flag()
        let random = Seed.generator("snapshots under guests")
        try await withThrowingTaskGroup(of: [UInt8].self) { group in
            for guest in 0..<3 {
                var random = random
                for _ in 0..<guest { _ = random.next() }
                let start = UInt64(guest) << 20
                group.addTask { [random] in
                    var random = random
                    var model = [UInt8](repeating: 0, count: 1 << 20)
                    while !over.isSet {
                        let count = Int.random(in: 1...30_000, using: &random)
                        let offset = Int.random(in: 0...(1 << 20) - count, using: &random)
                        let bytes = random.bytes(count)
                        let buffer = BufferSlice.holding(bytes)
                        let isDone = try volume.tryWrite(
                            at: start + UInt64(offset), from: buffer.readOnlyBytes)
                        if !isDone {
                            try await volume.write(at: start + UInt64(offset), from: buffer)
                        }
                        model.replaceSubrange(offset..<offset + count, with: bytes)
                        let found = try await volume.bytes(at: Int(start) + offset, count)
                        #expect(found == bytes)
                        await Task.yield()
                    }
                    return try await volume.bytes(at: Int(start), 1 << 20) == model
                        ? [] : [UInt8(guest)]
                }
            }
            for number in 0..<12 {
                try await Task.sleep(for: .milliseconds(20))
                try await store.snapshot("disk", to: fixture.directory.path("s\(number).qcow2"))
            }
            over.set()
            for try await fault in group { #expect(fault.isEmpty, "guest \(fault)") }
        }
        #expect(volume.imagePaths.count == 13)
        let content = try await volume.contents()
        try await volume.close()
        let (again, _) = try await fixture.start()
        let reopened = try await again.volume("disk")
        #expect(reopened.doubt == nil)
        #expect(try await reopened.contents() == content)
    }
}

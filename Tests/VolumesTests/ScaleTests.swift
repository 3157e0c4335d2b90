import Bitmaps
import BlockCore
import Catalog
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Volumes

/// Large volumes, and many.
@Suite struct ScaleTests {
    private static let tebibyte: UInt64 = 1 << 40

    @Test func theBitmapsOf16TiBWorkAndRecoverWithoutAStall() async throws {
        let directory = try TemporaryDirectory()
        let (store, queue) = try await start(directory)
        let volume = try await store.create(
            VolumeSpecification(name: "huge", lengthBytes: 16 * Self.tebibyte, format: .qcow2))
        try await volume.addBitmap("fine", granularityBytes: 4 << 10)
        try await volume.addBitmap("usual", granularityBytes: 64 << 10)
        try await volume.addBitmap("coarse", granularityBytes: 2 << 30)
        await #expect {
            try await volume.addBitmap("finer", granularityBytes: 2 << 10)
        } throws: { error in
            "\(error)".contains("'finer'") && "\(error)".contains("larger than 512 MiB")
        }
        let offsets = (0..<64).map { UInt64($0) * volume.lengthBytes / 64 }
        for offset in offsets { try await volume.write([1], at: offset) }
        #expect(try volume.dirtyRanges("fine").map(\.offset) == offsets)
        try await volume.mergeBitmaps(
            [BitmapLocation(volume: volume, name: "fine")], into: "coarse")
        #expect(try volume.dirtyRanges("coarse").map(\.offset) == offsets)
        for offset in offsets { try await volume.write([1], at: offset) }

        // A crash: another agent finds what the log says, and needs no commit of its bits for it.
        #expect(volume.log.regionBytes == 1 << 30)
        let copy = try copyState(of: directory)
        let started = ContinuousClock.now
        let (recovered, commits) = try await recover(copy)
        let took = ContinuousClock.now - started
        print("16 TiB with three bitmaps and 64 regions opened after a crash in \(took)")
        #expect(took < .seconds(2))
        #expect(commits == 1)
        let huge = try await recovered.volume("huge")
        for name in ["fine", "usual", "coarse"] {
            #expect(try huge.dirtyRanges(name).map(\.offset) == offsets)
        }
        // They leave the log one by one, and their bits with them.
        try await recovered.retireCold(after: .zero)
        #expect(try huge.queue.announced(huge).isEmpty)
        _ = await recovered.closeAll()
        _ = await store.closeAll()
        try queue.catalog.close()
    }

    @Test func manyVolumesShareCommitsWhenTheyOpenAndOneThatFailsStopsNoOther() async throws {
        let directory = try TemporaryDirectory()
        let (store, queue) = try await start(directory)
        let count = 100
        for number in 0..<count {
            let volume = try await store.create(
                VolumeSpecification(
                    name: "disk-\(number)", lengthBytes: Self.tebibyte, format: .raw))
            for name in ["one", "two", "three"] { try await volume.addBitmap(name) }
        }
        _ = await store.closeAll()
        try queue.catalog.close()
        try HostDirectory.removeFile(directory.path("volumes/disk-7.raw"))
        let started = ContinuousClock.now
        let (reopened, commits) = try await recover(directory.path)
        print("\(count) volumes with three bitmaps each opened in \(ContinuousClock.now - started)")
        #expect(commits == 2)
        #expect(await reopened.volumes().count == count - 1)
        #expect(await reopened.unavailable().map(\.name) == ["disk-7"])
        _ = await reopened.closeAll()
    }

    private func start(
        _ directory: TemporaryDirectory
    ) async throws -> (store: VolumeStore, queue: CatalogQueue) {
        let queue = CatalogQueue(catalog: try Catalog(directory: directory.path))
        return (VolumeStore(queue: queue, stateDirectory: directory.path), queue)
    }

    private func recover(_ directory: String) async throws -> (VolumeStore, commits: Int) {
        let commits = Counter()
        let catalog = try Catalog(
            directory: directory,
            failCommit: {
                commits.count.wrappingAdd(1, ordering: .relaxed)
                return nil
            })
        let store = VolumeStore(
            queue: CatalogQueue(catalog: catalog), stateDirectory: directory)
        try await store.openAll()
        return (store, commits.count.load(ordering: .relaxed))
    }

    private final class Counter: Sendable {
        let count = Atomic<Int>(0)
    }

    /// The catalog and the images as a crash would leave them, in a folder of their own.
    private func copyState(of directory: TemporaryDirectory) throws -> String {
        let copy = directory.path("after-crash")
        try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: false)
        for name in ["catalog.sqlite", "catalog.sqlite-wal"] {
            try FileManager.default.copyItem(
                atPath: directory.path(name), toPath: "\(copy)/\(name)")
        }
        let image = "\(copy)/huge.qcow2"
        try FileManager.default.copyItem(
            atPath: directory.path("volumes/huge.qcow2"), toPath: image)
        let looks = try ImageFingerprint(of: ImageLock(path: image, use: .reading), format: .qcow2)
        let catalog = try Catalog(directory: copy)
        try catalog.write { (transaction) throws(CatalogError) in
            let node = NodeRecord(
                format: "qcow2", path: image, isOwned: false, fingerprint: looks.text)
            try transaction.setNodes([node], ofVolume: try transaction.volume(named: "huge").id)
        }
        try catalog.close()
        return copy
    }
}

import BlockCore
import Catalog
import DriverRaw
import Foundation
import Synchronization
import TestSupport

@testable import Volumes

/// A volume over a raw file with a real catalog, in a folder of its own.
struct VolumeFixture {
    let directory: TemporaryDirectory
    let lengthBytes: UInt64
    let commitFailure = CommitFailure()

    static let granularityBytes: UInt64 = 64 << 10
    /// Of every volume that is not large.
    static let regionBytes: UInt64 = 1 << 20

    init(lengthBytes: UInt64 = 8 << 20) throws {
        directory = try TemporaryDirectory()
        self.lengthBytes = lengthBytes
        try RawDevice.create(path: imagePath, lengthBytes: lengthBytes)
    }

    var imagePath: String { directory.path("disk.raw") }

    /// Starts as an agent does: opens the catalog and every volume in it.
    func start() async throws -> (store: VolumeStore, queue: CatalogQueue) {
        let failure = commitFailure
        let catalog = try Catalog(directory: directory.path, failCommit: { failure.next() })
        let queue = CatalogQueue(catalog: catalog)
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        try await store.openAll()
        return (store, queue)
    }

    /// A store with one volume, "disk", and one recording bitmap, "changes".
    func startWithVolume() async throws -> (volume: Volume, queue: CatalogQueue) {
        let (store, queue) = try await start()
        let volume = try await store.add("disk", path: imagePath, format: .raw).volume
        try await volume.addBitmap("changes", granularityBytes: Self.granularityBytes)
        return (volume, queue)
    }

    /// Catalog and image as a crash at this instant would leave them, opened by a new store. They
    /// are copies, since the first volume, which knows of no crash, still has the image locked.
    func restartAfterCrash() async throws -> Volume {
        let copy = directory.path("after-crash-\(UInt32.random(in: 0 ... .max))")
        try FileManager.default.createDirectory(
            atPath: copy, withIntermediateDirectories: false)
        for name in ["catalog.sqlite", "catalog.sqlite-wal"]
        where FileManager.default.fileExists(atPath: directory.path(name)) {
            try FileManager.default.copyItem(
                atPath: directory.path(name), toPath: "\(copy)/\(name)")
        }
        let image = "\(copy)/disk.raw"
        try FileManager.default.copyItem(atPath: imagePath, toPath: image)
        let looks = try ImageFingerprint(of: ImageLock(path: image, use: .reading), format: .raw)
        let queue = CatalogQueue(catalog: try Catalog(directory: copy))
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                let id = try transaction.volume(named: "disk").id
                try transaction.setNodes(
                    [
                        NodeRecord(
                            format: "raw", path: image, isOwned: false, fingerprint: looks.text)
                    ],
                    ofVolume: id)
            }
        }
        let store = VolumeStore(queue: queue, stateDirectory: copy)
        try await store.openAll()
        return try await store.volume("disk")
    }
}

/// Makes commits of the catalog fail on demand.
final class CommitFailure: Sendable {
    private let countdown = Mutex<Int?>(nil)

    /// From now on the commit number `number`, counted from 1, fails, and no other.
    func fail(_ number: Int) { countdown.withLock { $0 = number } }

    func next() -> CatalogError? {
        countdown.withLock { countdown in
            guard let left = countdown else { return nil }
            countdown = left > 1 ? left - 1 : nil
            return left == 1 ? CatalogError(.full, "commit", on: "test", detail: "injected") : nil
        }
    }
}

extension Volume {
    /// The ranges that the bitmap calls dirty.
    func dirtyRanges(_ name: String) throws -> [ByteRange] {
        try dirtyRuns(ofBitmap: name, in: wholeRange, limit: .max).filter(\.isDirty).map(\.range)
    }

    func write(_ bytes: [UInt8], at offset: UInt64) async throws(BlockError) {
        try await write(at: offset, from: .holding(bytes))
    }

    func contents() async throws(BlockError) -> [UInt8] {
        let buffer = BufferPool.shared.take(Int(lengthBytes)).prefix(Int(lengthBytes))
        try await read(at: 0, into: buffer)
        return buffer.array
    }
}

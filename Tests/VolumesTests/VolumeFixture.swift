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
    private let lives = Lives()

    static let granularityBytes: UInt64 = 64 << 10

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
        lives.add(volume)
        try await volume.addBitmap("changes", granularityBytes: Self.granularityBytes)
        return (volume, queue)
    }

    /// The catalog as a crash at this instant would leave it, opened by a new store.
    func restartAfterCrash() async throws -> Volume {
        // The locks of a process that was killed go with it.
        lives.unlockAll()
        let copy = directory.path("after-crash-\(UInt32.random(in: 0 ... .max))")
        try FileManager.default.createDirectory(
            atPath: copy, withIntermediateDirectories: false)
        for name in ["catalog.sqlite", "catalog.sqlite-wal"]
        where FileManager.default.fileExists(atPath: directory.path(name)) {
            try FileManager.default.copyItem(
                atPath: directory.path(name), toPath: "\(copy)/\(name)")
        }
        let queue = CatalogQueue(catalog: try Catalog(directory: copy))
        let store = VolumeStore(queue: queue, stateDirectory: copy)
        try await store.openAll()
        let volume = try await store.volume("disk")
        lives.add(volume)
        return volume
    }
}

/// The volumes that were opened, for as long as somebody uses them.
private final class Lives: Sendable {
    private struct Life {
        weak var volume: Volume?
    }

    private let lives = Mutex<[Life]>([])

    func add(_ volume: Volume) { lives.withLock { $0.append(Life(volume: volume)) } }

    func unlockAll() {
        for life in lives.withLock({ $0 }) { life.volume?.chain.unlock() }
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

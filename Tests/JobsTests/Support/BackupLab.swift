import BlockCore
import Catalog
import DriverRaw
import Foundation
import Repository
import Synchronization
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// A volume with its catalog and a repository, all of which fail or hang on demand.
final class BackupLab: Sendable {
    static let granularityBytes: UInt64 = 64 << 10

    let directory: TemporaryDirectory
    /// The files of the repository.
    let files = FaultFileSystem()
    /// The commits of the catalog.
    let commits = CommitFault()
    /// The image of the first volume.
    let disk: FaultDevice
    let volumes: [Volume]
    let queue: CatalogQueue
    let repository: AttachedRepository
    let jobs = JobStore(report: { _ in }, record: { _ in })
    /// What a failure left frozen.
    private let unsettled = Mutex<[FrozenBitmap]>([])

    var volume: Volume { volumes[0] }

    init(lengthBytes: UInt64 = 1_000_003, volumeCount: Int = 1) async throws {
        directory = try TemporaryDirectory()
        let commits = commits
        queue = CatalogQueue(
            catalog: try Catalog(directory: directory.path, failCommit: { commits.next() }))
        var made: [Volume] = []
        var firstDisk: FaultDevice?
        for index in 0..<volumeCount {
            let (volume, disk) = try await Self.makeVolume(
                "disk\(index)", directory.path("disk\(index).raw"), lengthBytes, queue)
            made.append(volume)
            firstDisk = firstDisk ?? disk
        }
        volumes = made
        disk = try #require(firstDisk)
        let location = directory.path("vault")
        let vault = try await DirectoryRepository.create(
            at: location, pool: IOPool(name: "vault", threadCount: 4), files: files)
        let id = try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.insertRepository(
                    RepositoryRecord(
                        uuid: UUID(uuidString: vault.details.uuid) ?? UUID(), name: "vault",
                        location: location)
                ).id
            }
        }
        repository = AttachedRepository(id: id, name: "vault", repository: vault)
    }

    private static func makeVolume(
        _ name: String, _ path: String, _ lengthBytes: UInt64, _ queue: CatalogQueue
    ) async throws -> (Volume, FaultDevice) {
        try RawDevice.create(path: path, lengthBytes: lengthBytes)
        let chain = try ImageOpener.open(path: path, format: .raw, readOnly: false, pool: .guest)
        let node = chain.nodes[0]
        let disk = FaultDevice(node.device)
        let faulty = ImageChain(nodes: [
            ImageNode(
                path: node.path, format: .raw, isDirect: false, device: disk, lock: node.lock,
                dataLock: nil, backing: nil, found: node.found)
        ])
        let volume = try await VolumeOpening.create(
            name: name, chain: faulty, lengthBytes: lengthBytes, isOwned: false,
            durability: .power, queue: queue)
        return (volume, disk)
    }

    /// A backup of the first `volumeCount` volumes.
    func backup(
        _ level: Jobs.BackupLevel = .auto, volumeCount: Int = 1, bitmap: String? = nil,
        compression: PointCompression? = nil, fleece: FleeceLimits? = nil
    ) -> BackupJob {
        BackupJob(
            volumes: Array(volumes.prefix(volumeCount)), repository: repository, level: level,
            bitmapName: bitmap, compression: compression,
            fleece: fleece ?? FleeceLimits(directory: directory.path),
            leaveUnsettled: { bitmap in self.unsettled.withLock { $0.append(bitmap) } })
    }

    /// Starts a job for `backup`.
    func start(_ backup: BackupJob, speedBytes: UInt64 = 0) async throws -> Job {
        try await jobs.start(
            JobOptions(type: .backup, autoDismiss: false, speedBytes: speedBytes), backup.run)
    }

    /// Settles what earlier failures left, then runs `backup`. What it made is returned, and why
    /// the rest failed; an error if it made nothing.
    @discardableResult
    func run(
        _ backup: BackupJob
    ) async throws -> (points: [BackupOutcome], failures: [JobFailure]) {
        for bitmap in unsettled.withLock({ $0 }) where bitmap.isFrozen {
            _ = try await Settlement.settle(bitmap, in: repository)
        }
        unsettled.withLock { $0 = [] }
        let job = try await start(backup)
        await job.wait()
        if let failure = job.failure { throw failure }
        guard case .backup(let points, let failures)? = job.result else {
            throw BlockError(.cancelled, "back up", on: job.error ?? "nothing")
        }
        return (points, failures)
    }

    /// Runs `backup`, which is to make one point.
    @discardableResult
    func makePoint(
        _ level: Jobs.BackupLevel = .auto, bitmap: String? = nil,
        compression: PointCompression? = nil, _ location: SourceLocation = #_sourceLocation
    ) async throws -> Manifest {
        let result = try await run(backup(level, bitmap: bitmap, compression: compression))
        #expect(result.failures.isEmpty, sourceLocation: location)
        let text = try #require(result.points.first?.pointID, sourceLocation: location)
        let id = try #require(PointID(text), sourceLocation: location)
        return try #require(
            try await repository.repository.chain(for: id).last, sourceLocation: location)
    }

    /// The points of the repository that are whole.
    func points() async throws -> [PointID] {
        let points = try await repository.repository.points()
        #expect(points.allSatisfy { $0.problem == nil }, "\(points.compactMap(\.problem))")
        return points.map(\.id)
    }

    /// What the volume reads as at a point.
    func content(of id: PointID) async throws -> [UInt8] {
        let device = try await repository.repository.openPoint(id)
        let bytes = try await device.bytes(at: 0, Int(device.lengthBytes))
        try await device.close()
        return bytes
    }

    /// Whether the point reads as the volume does now, and is good by its own digests.
    func expectCurrent(
        _ id: PointID, of volume: Volume? = nil, _ comment: Comment? = nil,
        _ location: SourceLocation = #_sourceLocation
    ) async throws {
        let volume = volume ?? self.volume
        let now = try await volume.bytes(at: 0, Int(volume.lengthBytes))
        let found = try await content(of: id)
        #expect(found.count == now.count, comment, sourceLocation: location)
        guard found.count == now.count else { return }
        #expect(found.firstDifference(from: now) == nil, comment, sourceLocation: location)
        let report = try await repository.repository.verify(id)
        #expect(report.isGood, comment, sourceLocation: location)
    }

    /// A few random writes, zeroings and discards.
    func change(
        _ random: inout SplitMix64, of volume: Volume? = nil, count: Int = 6
    ) async throws {
        let volume = volume ?? self.volume
        for _ in 0..<count {
            let length = Int.random(in: 1...100_000, using: &random)
            let offset = UInt64.random(
                in: 0...(volume.lengthBytes - UInt64(length)), using: &random)
            let range = ByteRange(offset: offset, lengthBytes: UInt64(length))
            switch Int.random(in: 0..<5, using: &random) {
            case 0: try await volume.writeZeroes(range, mayUnmap: true)
            case 1: try await volume.discard(range)
            default:
                try await volume.write(at: offset, from: .holding(random.bytes(length)))
            }
        }
    }

    /// Makes every bitmap of a volume doubtful, as a changed image does at the next start.
    func distrust(_ volume: Volume, _ reason: String) async throws {
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.distrustBitmaps(ofVolume: volume.id, reason: reason)
            }
            volume.bitmaps.withLock { table in
                for index in table.entries.indices {
                    table.entries[index].record.inconsistency = reason
                }
                volume.duties.recording = table.recording
            }
        }
    }

    /// The path of a point's file.
    func path(of manifest: Manifest, _ suffix: String) throws -> String {
        let folders = try HostDirectory.names(in: directory.path("vault"))
        for folder in folders {
            let path = "\(directory.path("vault"))/\(folder)/\(manifest.point).\(suffix)"
            if HostDirectory.exists(path) { return path }
        }
        throw Tool.Failure(description: "no \(suffix) of \(manifest.point)")
    }

    /// The names that a writer leaves only while it is at work.
    func temporaryNames() throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: directory.path("vault"))
            .filter { $0.hasSuffix(".tmp") }
    }
}

/// Makes commits of the catalog fail on demand.
final class CommitFault: Sendable {
    private let countdown = Mutex<Int?>(nil)
    private let counter = Atomic<Int>(0)

    /// How many commits there were.
    var count: Int { counter.load(ordering: .relaxed) }

    /// From now on the commit number `number`, counted from 1, fails, and no other.
    func fail(_ number: Int) { countdown.withLock { $0 = number } }

    func heal() { countdown.withLock { $0 = nil } }

    func next() -> CatalogError? {
        counter.add(1, ordering: .relaxed)
        return countdown.withLock { countdown in
            guard let left = countdown else { return nil }
            countdown = left > 1 ? left - 1 : nil
            return left == 1 ? CatalogError(.full, "commit", on: "test", detail: "injected") : nil
        }
    }
}

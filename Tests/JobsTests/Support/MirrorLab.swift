import BlockCore
import Catalog
import DriverQcow2
import DriverRaw
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// What happened to jobs, in its order.
final class EventLog: Sendable {
    let all = Mutex<[JobEvent]>([])

    /// How many requests failed.
    var errorCount: Int {
        all.withLock { events in
            events.count { if case .error = $0 { true } else { false } }
        }
    }
}

/// A volume with guests, a target for a mirror of it, and images that fail or wait on demand.
final class MirrorLab: Sendable {
    let directory: TemporaryDirectory
    let queue: CatalogQueue
    let commits = CommitFault()
    let volume: Volume
    /// The image of the volume.
    let disk: FaultDevice
    let target: FaultDevice
    let targetPath: String
    let jobs: JobStore
    let events = EventLog()
    let seed: SplitMix64
    private let image: TargetImage

    init(
        _ name: String, lengthBytes: UInt64 = 2 << 20, target format: ImageFormat = .raw,
        clusterBytes: UInt64 = 65_536, isPartial: Bool = false, isFull: Bool = true
    ) async throws {
        directory = try TemporaryDirectory()
        var random = Seed.generator(name)
        let commits = commits
        let catalog = try Catalog(directory: directory.path, failCommit: { commits.next() })
        queue = CatalogQueue(catalog: catalog)
        let events = events
        jobs = JobStore(
            report: { event in events.all.withLock { $0.append(event) } }, record: { _ in })
        let path = directory.path("disk.raw")
        try RawDevice.create(path: path, lengthBytes: lengthBytes)
        (volume, disk) = try await Self.makeVolume("disk", path, lengthBytes, queue)
        if isFull {
            try await volume.put(random.bytes(Int(lengthBytes)), at: 0)
            try await volume.writeZeroes(
                ByteRange(offset: 300_000, lengthBytes: 400_000), mayUnmap: true)
        }
        seed = random
        targetPath = directory.path("target.\(format.rawValue)")
        (image, target) = try Self.makeTarget(
            targetPath, format, clusterBytes: clusterBytes, isPartial: isPartial, for: volume)
    }

    private static func makeVolume(
        _ name: String, _ path: String, _ lengthBytes: UInt64, _ queue: CatalogQueue
    ) async throws -> (Volume, FaultDevice) {
        let chain = try ImageOpener.open(path: path, format: .raw, readOnly: false, pool: .guest)
        let (faulty, disk) = withFaults(chain.nodes[0])
        let volume = try await VolumeOpening.create(
            name: name, chain: faulty, lengthBytes: lengthBytes, isOwned: false,
            durability: .power, queue: queue)
        return (volume, disk)
    }

    private static func makeTarget(
        _ path: String, _ format: ImageFormat, clusterBytes: UInt64, isPartial: Bool,
        for volume: Volume
    ) throws -> (TargetImage, FaultDevice) {
        switch format {
        case .raw: try RawDevice.create(path: path, lengthBytes: volume.lengthBytes)
        case .qcow2:
            try Qcow2Device.create(
                path: path, lengthBytes: volume.lengthBytes, clusterBytes: clusterBytes)
        }
        let chain = try ImageOpener.open(path: path, format: format, readOnly: false, pool: .guest)
        let (faulty, device) = withFaults(chain.nodes[0])
        return (TargetImage(faulty, of: volume, isNew: !isPartial), device)
    }

    private static func withFaults(_ node: ImageNode) -> (ImageChain, FaultDevice) {
        let device = FaultDevice(node.device)
        let chain = ImageChain(nodes: [
            ImageNode(
                path: node.path, format: node.format, isDirect: false, device: device,
                lock: node.lock, dataLock: nil, backing: nil, found: node.found)
        ])
        return (chain, device)
    }

    /// Three guests, each of a third of the volume.
    func guests() async throws -> [MirrorGuest] {
        let third = volume.lengthBytes / 3
        var guests: [MirrorGuest] = []
        for number in 0..<3 {
            let start = UInt64(number) * third
            let end = number == 2 ? volume.lengthBytes : start + third
            let range = ByteRange(offset: start, end: end)
            guests.append(
                MirrorGuest(
                    range, before: try await volume.bytes(at: Int(start), Int(end - start))))
        }
        return guests
    }

    /// Runs `body` while `guests` are at work.
    func whileAtWork(
        _ guests: [MirrorGuest], _ body: () async throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, guest) in guests.enumerated() {
                var random = seed
                for _ in 0...number { _ = random.next() }
                group.addTask { [volume, random] in try await guest.run(volume, random) }
            }
            do {
                try await body()
            } catch {
                for guest in guests { guest.stop() }
                throw error
            }
            // A little more, so that what follows the end is seen too.
            try await Task.sleep(for: .milliseconds(20))
            for guest in guests { guest.stop() }
            try await group.waitForAll()
        }
    }

    func start(
        _ options: MirrorOptions, id: String = "mirror", onError: ErrorPolicy = .report,
        autoFinalize: Bool = true, speedBytes: UInt64 = 0, target: TargetImage? = nil
    ) async throws -> Job {
        let body = try await MirrorJob(
            of: volume, to: target ?? image, jobID: id, options: options)
        return try await jobs.start(
            JobOptions(
                id: id, type: .mirror, device: volume.name, autoFinalize: autoFinalize,
                autoDismiss: false, speedBytes: speedBytes, onSourceError: onError,
                onTargetError: onError), body)
    }

    /// Waits until the job is in one of the states, or over.
    func wait(_ job: Job, for statuses: JobStatus..., seconds: Int = 60) async throws {
        let end = ContinuousClock.now + .seconds(seconds)
        while !statuses.contains(job.status) {
            try #require(
                !job.status.isOver, "the job ended: \(job.error ?? "well")")
            try #require(ContinuousClock.now < end, "the job is \(job.status)")
            try await Task.sleep(for: .milliseconds(1))
        }
    }

    func content(of device: any BlockDevice) async throws -> [UInt8] {
        try await device.bytes(at: 0, Int(volume.lengthBytes))
    }

    /// How many events of each kind that ends a job there were.
    var endings: (completed: Int, cancelled: Int, ready: Int) {
        events.all.withLock { events in
            var counts = (completed: 0, cancelled: 0, ready: 0)
            for event in events {
                switch event {
                case .completed: counts.completed += 1
                case .cancelled: counts.cancelled += 1
                case .ready: counts.ready += 1
                default: break
                }
            }
            return counts
        }
    }
}

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

/// A stream and a guest that want the same slow disk.
@Suite(.serialized) struct StreamPaceTests {
    @Test func aStreamAtIdlePriorityIsHardlyFeltByAGuest() async throws {
        let normal = try await run(isIdle: false)
        let idle = try await run(isIdle: true)
        print(
            "a guest's request took \(normal) s beside a stream, and \(idle) s beside an idle one")
        #expect(idle < normal / 2)
    }

    @Test func aStreamAtIdlePriorityTakesAllWhenNobodyIsThere() async throws {
        let lab = try await SlowDiskLab()
        let job = try await lab.stream(isIdle: true)
        await job.wait()
        #expect(job.error == nil)
        #expect(lab.slow.inFlightMax.load(ordering: .relaxed) == 8)
        #expect(lab.volume.imagePaths.count == 1)
    }

    @Test func besideAGuestLittleIsStoredAtATime() async throws {
        let load = GuestLoad()
        let pace = IdlePace(load, countMax: 8)
        let stores = Stores()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number: UInt64 in 0..<48 {
                group.addTask {
                    try await pace.store(
                        ByteRange(offset: number << 20 + 4096, end: (number + 1) << 20),
                        unitBytes: 65536,
                        flush: { () throws(BlockError) in
                            stores.seen.withLock { $0.flushes += 1 }
                        },
                        { (part) async throws(BlockError) in
                            stores.seen.withLock { seen in
                                seen.atOnce += 1
                                seen.atOnceMax = max(seen.atOnceMax, seen.atOnce)
                                seen.parts.append(part)
                            }
                            await Task.yield()
                            stores.seen.withLock { $0.atOnce -= 1 }
                        })
                }
            }
            try await group.waitForAll()
        }
        let seen = stores.seen.withLock { $0 }
        let all = seen.parts
        #expect(seen.atOnceMax == 1 && seen.flushes == 1)
        #expect(all.allSatisfy { $0.lengthBytes <= 128 << 10 && $0.end % (128 << 10) == 0 })
        #expect(all.reduce(0) { $0 + $1.lengthBytes } == 48 * (1 << 20 - 4096))
    }

    /// The mean time of a guest's requests while a stream is at work, which ends well afterwards.
    private func run(isIdle: Bool) async throws -> Double {
        let lab = try await SlowDiskLab()
        let job = try await lab.stream(isIdle: isIdle)
        let start = ContinuousClock.now
        var random = Seed.generator("slow disk")
        var times: [Double] = []
        let content = BufferPool.shared.take(4096).prefix(4096)
        while ContinuousClock.now - start < .seconds(3), job.status == .running {
            // Where the stream comes last.
            let offset = lab.lengthBytes - 4096 * UInt64.random(in: 1...200, using: &random)
            let begun = ContinuousClock.now
            lab.volume.guestLoad.begin()
            try await lab.volume.read(at: offset, into: content)
            let time = ContinuousClock.now - begun
            lab.volume.guestLoad.end(after: time)
            times.append(time / .seconds(1))
        }
        await job.wait()
        #expect(job.error == nil)
        #expect(lab.volume.imagePaths.count == 1)
        try #require(times.count > 10)
        return times.reduce(0, +) / Double(times.count)
    }
}

/// What was stored, and how.
private final class Stores: Sendable {
    struct Seen {
        var atOnce = 0
        var atOnceMax = 0
        var flushes = 0
        var parts: [ByteRange] = []
    }

    let seen = Mutex(Seen())
}

/// A volume whose base answers one request at a time, each after some milliseconds.
private final class SlowDiskLab: Sendable {
    let directory: TemporaryDirectory
    let volume: Volume
    let slow: SlowDevice
    let jobs = JobStore(report: { _ in }, record: { _ in })
    let lengthBytes: UInt64 = 192 << 20

    init() async throws {
        directory = try TemporaryDirectory()
        let base = directory.path("base")
        let top = directory.path("top")
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", base, "\(lengthBytes)"])
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 3 0 \(lengthBytes)", base])
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top])
        let opened = try ImageOpener.open(path: top, format: .qcow2, readOnly: false, pool: .guest)
        var nodes = opened.nodes
        slow = SlowDevice(nodes[1].device)
        await nodes[0].backing?.attach(slow)
        nodes[1].device = slow
        volume = try await VolumeOpening.create(
            name: "disk", chain: ImageChain(nodes: nodes), lengthBytes: lengthBytes,
            isOwned: false, durability: .power,
            queue: CatalogQueue(catalog: try Catalog(directory: directory.path)))
    }

    func stream(isIdle: Bool) async throws -> Job {
        let segment = ChainSegment(of: volume, below: 0, above: nil)
        try await volume.claimImages(volume.imagePaths, for: "test", type: "stream")
        return try await jobs.start(
            JobOptions(type: .stream, device: "disk", autoDismiss: false),
            StreamJob(segment, from: .images, claim: "test", isIdle: isIdle))
    }
}

private final class SlowDevice: BlockDevice {
    let base: any BlockDevice
    let inFlightMax = Atomic<Int>(0)
    private let inFlight = Atomic<Int>(0)
    private let head = AsyncLock()

    init(_ base: any BlockDevice) { self.base = base }

    var nodeName: String { base.nodeName }
    var lengthBytes: UInt64 { base.lengthBytes }
    var isReadOnly: Bool { true }
    var allocationUnitBytes: UInt64 { base.allocationUnitBytes }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt { .refused }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let count = inFlight.add(1, ordering: .relaxed).newValue
        inFlightMax.max(count, ordering: .relaxed)
        defer { inFlight.subtract(1, ordering: .relaxed) }
        try await head.withLock { () async throws(BlockError) in
            try? await Task.sleep(for: .milliseconds(4))
            try await base.read(at: offset, into: destination)
        }
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { false }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw BlockError(.readOnly, "write", on: nodeName)
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw BlockError(.readOnly, "write zeroes", on: nodeName)
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        throw BlockError(.readOnly, "discard", on: nodeName)
    }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try await base.extents(in: range, limit: limit)
    }

    func close() async throws(BlockError) { try await base.close() }
}

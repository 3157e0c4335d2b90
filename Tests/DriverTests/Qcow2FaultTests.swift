import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// What goes wrong around an image, and what happens at the same time in it.
@Suite struct Qcow2FaultTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func aWriteWhoseCopyFailsChangesNothingAndMayBeRepeated() async throws {
        let below = [UInt8](repeating: 6, count: 1 << 20)
        let backing = FaultDevice(MemoryDevice(below))
        for number in 1...4 {
            let device = try overlay(backing, lengthBytes: 1 << 20)
            // Both ends are parts of clusters, so two are copied; and one more later.
            backing.fail(.read, number: number)
            var model = below
            var failures = 0
            for (offset, count) in [(60_000, 80_000), (400_000, 10)] {
                let bytes = [UInt8](repeating: 1, count: count)
                do {
                    try await device.put(bytes, at: offset)
                } catch {
                    failures += 1
                    #expect(error.kind == .io)
                    // Of the request itself some clusters may be done; around it nothing changed.
                    var now = try await device.bytes(at: 0, model.count)
                    now.replaceSubrange(
                        offset..<offset + count, with: model[offset..<offset + count])
                    #expect(now.firstDifference(from: model) == nil)
                    try await device.put(bytes, at: offset)
                }
                model.replaceSubrange(offset..<offset + count, with: bytes)
            }
            #expect(failures == (number <= 3 ? 1 : 0))
            backing.heal()
            let content = try await device.bytes(at: 0, model.count)
            #expect(content.firstDifference(from: model) == nil, "read \(number)")
            try await device.close()
            try Tool.check(["qemu-img", "check", image])
        }
    }

    @Test func twoWritesToOneNewClusterBothLand() async throws {
        let backing = FaultDevice(MemoryDevice([UInt8](repeating: 6, count: 1 << 20)))
        let device = try overlay(backing, lengthBytes: 1 << 20)
        backing.pause(.read)
        async let first: Void = device.put([1, 1], at: 100)
        await backing.waitUntilHeld(.read)
        async let second: Void = device.put([2, 2], at: 200)
        // The other cluster is free to go on, though its copy is held, too.
        async let other: Void = device.put([3, 3], at: 70_000)
        await backing.waitUntilHeld(.read, count: 2)
        backing.release(.read)
        _ = try await (first, second, other)
        #expect(try await device.bytes(at: 99, 4) == [6, 1, 1, 6])
        #expect(try await device.bytes(at: 199, 4) == [6, 2, 2, 6])
        #expect(try await device.bytes(at: 69_999, 4) == [6, 3, 3, 6])
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
    }

    @Test func discardsAmongWritesCorruptNothing() async throws {
        let clusters = 64
        let clusterBytes = 4096
        try Qcow2Device.create(
            path: image, lengthBytes: UInt64(clusters * clusterBytes), clusterBytes: 4096)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<8 {
                group.addTask {
                    var random = Seed.generator("discards \(worker)")
                    for step in 0..<150 {
                        let cluster = Int.random(in: 0..<clusters, using: &random)
                        let range = ByteRange(
                            offset: UInt64(cluster * clusterBytes),
                            lengthBytes: UInt64(clusterBytes))
                        // Each cluster only ever holds its own number or zeroes.
                        let bytes = [UInt8](repeating: UInt8(cluster + 1), count: clusterBytes)
                        switch step % 4 {
                        case 0: try await device.discard(range)
                        case 1: try await device.put(bytes, at: cluster * clusterBytes, now: true)
                        case 2: try await device.put([bytes[0]], at: cluster * clusterBytes + 99)
                        default: try await device.flush()
                        }
                        let now = try await device.bytes(at: cluster * clusterBytes, clusterBytes)
                        #expect(now.allSatisfy { $0 == 0 || $0 == UInt8(cluster + 1) })
                    }
                }
            }
            try await group.waitForAll()
        }
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
    }

    @Test func discardedClustersAreUsedAgain() async throws {
        let lengthBytes = 256 << 20
        try Qcow2Device.create(path: image, lengthBytes: UInt64(lengthBytes))
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        let piece = [UInt8](repeating: 1, count: 4 << 20)
        for offset in stride(from: 0, to: lengthBytes, by: piece.count) {
            try await device.put(piece, at: offset)
            try await device.flush()
            try await device.discard(
                ByteRange(offset: UInt64(offset), lengthBytes: UInt64(piece.count)))
        }
        try await device.flush()
        let file = try HostFile(path: image, access: .readOnly)
        // The reserve is 32 MiB, and some of it is refilled before it is used up.
        #expect(try file.sizeBytes() < 100 << 20)
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
    }

    @Test func aReadOnlyImageRefusesChanges() async throws {
        try Qcow2Device.create(path: image, lengthBytes: 1 << 20)
        let before = try readFile(image)
        let device = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        let piece = BufferSlice.holding([1, 2, 3])
        let range = ByteRange(offset: 0, lengthBytes: 65536)
        await expect(.readOnly) { try await device.write(at: 0, from: piece) }
        await expect(.readOnly) { _ = try device.tryWrite(at: 0, from: piece.readOnlyBytes) }
        await expect(.readOnly) { try await device.writeZeroes(range, mayUnmap: true) }
        await expect(.readOnly) { try await device.discard(range) }
        try await device.flush()
        try await device.close()
        #expect(try readFile(image) == before)
    }

    private func overlay(_ backing: any BlockDevice, lengthBytes: UInt64) throws -> Qcow2Device {
        try HostDirectory.removeFile(image)
        let name = directory.path("below.raw")
        try writeFile(name, [UInt8](repeating: 6, count: Int(lengthBytes)))
        try Qcow2Device.create(
            path: image, lengthBytes: lengthBytes,
            backing: Qcow2Backing(name: "below.raw", format: "raw"))
        return try Qcow2Device.open(path: image, readOnly: false, backing: backing)
    }
}

/// Expects `body` to throw a `BlockError` of `kind`.
func expect(_ kind: BlockError.Kind, _ body: () async throws -> Void) async {
    do {
        try await body()
        Issue.record("expected \(kind)")
    } catch {
        #expect((error as? BlockError)?.kind == kind, "\(error)")
    }
}

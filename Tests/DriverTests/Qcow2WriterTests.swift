import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Images made by `Qcow2Writer`, with qemu-img as the judge.
@Suite struct Qcow2WriterTests {
    @Test(arguments: [UInt64(512), 4096, 65536, 2 << 20])
    func unorderedParallelWritesGiveACleanImageEqualToTheModel(clusterBytes: UInt64) async throws {
        let directory = try TemporaryDirectory()
        var random = Seed.generator("writer-\(clusterBytes)")
        let clusters = clusterBytes > 65536 ? 9 : 201
        let lengthBytes = UInt64(clusters) * clusterBytes - 77
        var model = [UInt8](repeating: 0, count: Int(lengthBytes))
        var pieces: [(UInt64, BufferSlice)] = []
        for cluster in (0..<clusters).shuffled(using: &random) where cluster % 3 != 1 {
            let offset = UInt64(cluster) * clusterBytes
            let bytes = random.bytes(Int(min(clusterBytes, lengthBytes - offset)))
            model.replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
            pieces.append((offset, .holding(bytes)))
        }
        let image = directory.path("image.qcow2")
        let writer = try Qcow2Writer(
            path: image, lengthBytes: lengthBytes, clusterBytes: clusterBytes, backing: nil)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                let mine = pieces.enumerated().filter { $0.offset % 4 == worker }.map(\.element)
                group.addTask {
                    for (offset, slice) in mine { try await writer.write(at: offset, from: slice) }
                }
            }
            try await group.waitForAll()
        }
        #expect(writer.storedBytes == UInt64(pieces.count) * clusterBytes)
        try await writer.finish()

        let raw = directory.path("model.raw")
        model += [UInt8](repeating: 0, count: Int(lengthBytes.alignedUp(to: 512) - lengthBytes))
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", image, raw])
    }

    @Test(
        arguments: [Qcow2Header.Compression.deflate, .zstd], [UInt64(512), 4096, 65536, 2 << 20])
    func compressedClustersShareRoomAndReadTheSame(
        compression: Qcow2Header.Compression, clusterBytes: UInt64
    ) async throws {
        let directory = try TemporaryDirectory()
        var random = Seed.generator("compressing writer \(clusterBytes)")
        let clusters = clusterBytes > 65536 ? 6 : 120
        let lengthBytes = UInt64(clusters) * clusterBytes - 177
        var model = [UInt8](repeating: 0, count: Int(lengthBytes))
        let image = directory.path("image.qcow2")
        let writer = try Qcow2Writer(
            path: image, lengthBytes: lengthBytes, clusterBytes: clusterBytes, backing: nil,
            compression: compression)
        var pieces: [(UInt64, BufferSlice)] = []
        for first in stride(from: 0, to: clusters, by: 3).shuffled(using: &random) {
            let offset = Int(clusterBytes) * first
            let count = min(Int(clusterBytes) * 3, model.count - offset)
            // Two clusters that compress, one that does not.
            var bytes = [UInt8](repeating: UInt8(first & 0xFF), count: count)
            let noise = random.bytes(Int(clusterBytes) + Int(clusterBytes) / 4)
            bytes.replaceSubrange(0..<min(noise.count, count), with: noise.prefix(count))
            model.replaceSubrange(offset..<offset + count, with: bytes)
            pieces.append((UInt64(offset), .holding(bytes)))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<4 {
                let mine = pieces.enumerated().filter { $0.offset % 4 == worker }.map(\.element)
                group.addTask {
                    for (offset, slice) in mine { try await writer.write(at: offset, from: slice) }
                }
            }
            try await group.waitForAll()
        }
        #expect(writer.storedBytes < lengthBytes * 8 / 10)
        try await writer.finish()
        let raw = directory.path("model.raw")
        model += [UInt8](repeating: 0, count: Int(lengthBytes.alignedUp(to: 512) - lengthBytes))
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", image, raw])
        let device = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        let found = try await device.bytes(at: 0, model.count)
        #expect(found.firstDifference(from: model) == nil)
    }

    @Test func explicitZeroClustersHideTheBackingFile() async throws {
        let directory = try TemporaryDirectory()
        let base = directory.path("base.raw")
        let content = [UInt8](repeating: 0xAB, count: 1 << 20)
        try writeFile(base, content)
        let image = directory.path("top.qcow2")
        let writer = try Qcow2Writer(
            path: image, lengthBytes: 1 << 20, clusterBytes: 65536,
            backing: Qcow2Backing(name: "base.raw", format: "raw"))
        try writer.writeZeroes(ByteRange(offset: 65536, lengthBytes: 131072))
        let data = [UInt8](repeating: 0xCD, count: 65536)
        try await writer.write(at: 0, from: .holding(data))
        try await writer.finish()

        var model = content
        model.replaceSubrange(0..<65536, with: data)
        model.replaceSubrange(65536..<196608, with: [UInt8](repeating: 0, count: 131072))
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", image, raw])
        #expect(
            try Qcow2Header(path: image).backing == Qcow2Backing(name: "base.raw", format: "raw"))
    }

    @Test func moreTablesThanMemoryHoldsAreSpilledAndReadAgain() async throws {
        let directory = try TemporaryDirectory()
        let image = directory.path("image.qcow2")
        // One table maps 32 KiB here, and 32768 tables are kept in memory.
        let tables: UInt64 = 40_000
        let lengthBytes = tables * 32768
        let writer = try Qcow2Writer(
            path: image, lengthBytes: lengthBytes, clusterBytes: 512, backing: nil)
        let piece = BufferSlice.holding([UInt8](repeating: 0x5A, count: 512))
        for table in 0..<tables { try await writer.write(at: table * 32768, from: piece) }
        for table in 0..<10 as Range<UInt64> {
            try await writer.write(at: table * 32768 + 1024, from: piece)
        }
        try await writer.finish()
        try Tool.check(["qemu-img", "check", image])
        let device = try Tool.check([
            "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x5a 0 512", "-c", "read -P 0 512 512",
            "-c", "read -P 0x5a 1024 512", "-c", "read -P 0x5a \(39_999 * 32768) 512", image,
        ])
        #expect(!device.contains("failed"))
    }

    @Test func aClusterIsRefusedTheSecondTime() async throws {
        let directory = try TemporaryDirectory()
        let writer = try Qcow2Writer(
            path: directory.path("image"), lengthBytes: 1 << 20, clusterBytes: 65536, backing: nil)
        let piece = BufferSlice.holding([UInt8](repeating: 1, count: 65536))
        try await writer.write(at: 0, from: piece)
        await #expect(throws: BlockError.self) { try await writer.write(at: 0, from: piece) }
        await #expect(throws: BlockError.self) { try await writer.write(at: 1, from: piece) }
        await #expect(throws: BlockError.self) { try await writer.write(at: 1 << 20, from: piece) }
        writer.abandon()
        await #expect(throws: BlockError.self) { try await writer.finish() }
    }

    @Test func anUnfinishedImageIsNone() async throws {
        let directory = try TemporaryDirectory()
        let image = directory.path("image")
        let writer = try Qcow2Writer(
            path: image, lengthBytes: 1 << 20, clusterBytes: 65536, backing: nil)
        try await writer.write(
            at: 0, from: .holding([UInt8](repeating: 1, count: 65536)))
        writer.abandon()
        #expect(throws: BlockError.self) { try Qcow2Header(path: image) }
    }
}

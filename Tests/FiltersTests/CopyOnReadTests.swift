import BlockCore
import DriverQcow2
import Filters
import TestSupport
import Testing

/// What a copy-on-read filter stores.
@Suite struct CopyOnReadTests {
    private let directory: TemporaryDirectory
    private let below: [UInt8]
    private let image: Qcow2Device

    init() throws {
        directory = try TemporaryDirectory()
        var random = Seed.generator("copy on read")
        below = random.bytes(1 << 20)
        let path = directory.path("disk.qcow2")
        try Qcow2Device.create(
            path: path, lengthBytes: 1 << 20, clusterBytes: 65536,
            backing: Qcow2Backing(name: "below", format: "raw"))
        image = try Qcow2Device.open(
            path: path, readOnly: false,
            backing: MemoryDevice(below, name: "below", readOnly: true))
    }

    private func depths() async throws -> [UInt64: Int] {
        var depths: [UInt64: Int] = [:]
        for extent in try await image.allExtents(in: ByteRange(offset: 0, end: 1 << 20)) {
            for offset in stride(from: extent.range.offset, to: extent.range.end, by: 65536) {
                depths[offset / 65536] = extent.depth
            }
        }
        return depths
    }

    @Test func whatIsReadIsThereFromThenOn() async throws {
        let filter = CopyOnRead(image)
        #expect(try await filter.bytes(at: 70_000, 10) == Array(below[70_000..<70_010]))
        #expect(try await filter.bytes(at: 200_000, 100_000) == Array(below[200_000..<300_000]))
        let depths = try await depths()
        #expect(depths.filter { $0.value == 0 }.keys.sorted() == [1, 3, 4])
        #expect(try await image.bytes(at: 0, 1 << 20) == below)
        try await filter.close()
        let path = directory.path("disk.qcow2")
        try Tool.check(["qemu-img", "rebase", "-u", "-b", "", "-f", "qcow2", path])
        try Tool.check(["qemu-img", "check", "-q", path])
    }

    @Test func noCopyLandsOnANewerWrite() async throws {
        let filter = CopyOnRead(image)
        var random = Seed.generator("copy on read and writes")
        var model = below
        for _ in 0..<200 {
            let offset = Int.random(in: 0..<(1 << 20) - 4096, using: &random)
            let bytes = random.bytes(Int.random(in: 1...4096, using: &random))
            let reads = (0..<4).map { _ in Int.random(in: 0..<(1 << 20) - 70_000, using: &random) }
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await filter.put(bytes, at: offset) }
                for read in reads {
                    group.addTask { _ = try await filter.bytes(at: read, 70_000) }
                }
                try await group.waitForAll()
            }
            model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        #expect(try await filter.bytes(at: 0, 1 << 20).firstDifference(from: model) == nil)
        try await filter.close()
    }

    @Test func aReadOnlyImageIsLeftAlone() async throws {
        let filter = CopyOnRead(MemoryDevice(below, readOnly: true))
        #expect(try await filter.bytes(at: 0, 4096) == Array(below[..<4096]))
    }
}

import BlockCore
import DriverRaw
import Glibc
import TestSupport
import Testing

/// Raw nodes on what is not the usual file: direct I/O, tmpfs, block devices.
@Suite(.serialized) struct RawDeviceTests {
    @Test(arguments: [10_000, 1 << 20, 300_001, 300])
    func aFileByDirectIOConforms(lengthBytes: Int) async throws {
        let directory = try TemporaryDirectory()
        try await conform(at: directory.path("disk.raw"), lengthBytes, bypassingPageCache: true)
    }

    @Test(.enabled(if: isTemporary("/dev/shm"), "/dev/shm is no tmpfs"), arguments: [false, true])
    func aFileOfATmpfsConforms(bypassingPageCache: Bool) async throws {
        let path = "/dev/shm/tidemark-test-\(getpid()).raw"
        defer { unlink(path) }
        try await conform(at: path, 300_001, bypassingPageCache: bypassingPageCache)
    }

    @Test(.enabled(if: isTemporary("/dev/shm"), "/dev/shm is no tmpfs"))
    func whatATmpfsCannotDoIsWritten() async throws {
        let path = "/dev/shm/tidemark-test-\(getpid()).raw"
        defer { unlink(path) }
        try writeFile(path, [UInt8](repeating: 1, count: 1 << 20))
        let device = try RawDevice.open(path: path, readOnly: false)
        for mayUnmap in [false, true, false] {
            try await device.put([UInt8](repeating: 1, count: 1 << 20), at: 0)
            try await device.writeZeroes(
                ByteRange(offset: 5, lengthBytes: 700_000), mayUnmap: mayUnmap)
            let bytes = try await device.bytes(at: 0, 1 << 20)
            #expect(bytes[4] == 1 && bytes[700_005] == 1)
            #expect(bytes[5..<700_005].allSatisfy { $0 == 0 })
        }
        try await device.close()
    }

    /// What one descriptor bypasses the other must see: guests' data goes the one way, a backup of
    /// the same file may come the other.
    @Test func directAndBufferedReadersAgree() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.raw")
        var random = Seed.generator("direct and buffered")
        var model = random.bytes(200_003)
        try writeFile(path, model)
        let direct = try RawDevice.open(path: path, readOnly: false, bypassingPageCache: true)
        let buffered = try RawDevice.open(path: path, readOnly: true)
        for _ in 0..<40 {
            let offset = Int.random(in: 0..<200_000, using: &random)
            let bytes = random.bytes(Int.random(in: 1...(200_003 - offset), using: &random))
            try await direct.put(bytes, at: offset)
            model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            #expect(try await buffered.bytes(at: 0, model.count) == model)
            #expect(try await direct.bytes(at: 0, model.count) == model)
        }
        try await direct.close()
        #expect(try readFile(path).count == 200_003)
    }

    @Test(
        .enabled(if: LoopDevice.works, "no loop devices can be made here"),
        arguments: [false, true])
    func aBlockDeviceConforms(bypassingPageCache: Bool) async throws {
        let loop = try LoopDevice(lengthBytes: 303_104)
        try await conform(
            at: loop.path, 303_104, bypassingPageCache: bypassingPageCache,
            fill: { content in
                let device = try HostFile(path: loop.path, access: .readWrite)
                try content.withBytes { (bytes) throws(BlockError) in
                    try device.write(at: 0, from: bytes)
                }
                try device.flush()
            })
    }

    @Test(.enabled(if: LoopDevice.works, "no loop devices can be made here"))
    func aBlockDeviceGivesItsStorageBackAndIsClaimed() async throws {
        let loop = try LoopDevice(lengthBytes: 4 << 20)
        let lock = try ImageLock(path: loop.path, use: .writing)
        let device = try RawDevice.open(path: loop.path, readOnly: false)
        #expect(device.lengthBytes == 4 << 20)
        try await device.put([UInt8](repeating: 5, count: 4 << 20), at: 0)
        try await device.flush()
        let before = try loop.storedBlocks()
        // Neither end is on a block.
        try await device.discard(ByteRange(offset: 100, lengthBytes: 3 << 20))
        try await device.close()
        #expect(try loop.storedBlocks() < before / 2, "the discard gave nothing back")
        let bytes = try await RawDevice.open(path: loop.path, readOnly: true).bytes(at: 0, 4 << 20)
        #expect(bytes[99] == 5 && bytes[(3 << 20) + 100] == 5 && bytes[1 << 20] == 0)

        let claim = try Tool.run([
            "python3", "-c", "import os,sys; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL)",
            loop.path,
        ])
        #expect(claim.status != 0 && claim.errors.contains("busy"), "\(claim.errors)")
        let second = #expect(throws: BlockError.self) {
            try ImageLock(path: loop.path, use: .writing)
        }
        #expect(second?.kind == .busy && second?.operation == "lock")
        lock.release()
    }

    private func conform(
        at path: String, _ lengthBytes: Int, bypassingPageCache: Bool,
        fill: (@Sendable ([UInt8]) throws -> Void)? = nil
    ) async throws {
        var random = Seed.generator("raw \(path.split(separator: "/").last ?? "") \(lengthBytes)")
        let content = random.bytes(lengthBytes)
        let open = { @Sendable () throws -> any BlockDevice in
            try RawDevice.open(
                path: path, readOnly: false, bypassingPageCache: bypassingPageCache)
        }
        let fixture = DeviceFixture(
            "raw \(path) \(lengthBytes) direct: \(bypassingPageCache)", content: content,
            make: {
                if let fill { try fill(content) } else { try writeFile(path, content) }
                return try open()
            }, reopen: { try open() })
        try await BlockDeviceConformance(fixture).runAll()
    }

    private static func isTemporary(_ path: String) -> Bool {
        (try? Tool.check(["stat", "-f", "-c", "%T", path]))?.hasPrefix("tmpfs") == true
    }
}

/// A block device that is a file.
private final class LoopDevice: Sendable {
    static let works = (try? LoopDevice(lengthBytes: 1 << 20)) != nil

    private let directory: TemporaryDirectory
    let path: String

    init(lengthBytes: Int) throws {
        directory = try TemporaryDirectory()
        try Tool.check(["truncate", "-s", "\(lengthBytes)", directory.path("file")])
        let output = try Tool.check(["losetup", "--find", "--show", directory.path("file")])
        path = String(output.prefix { !$0.isWhitespace })
    }

    deinit { _ = try? Tool.run(["losetup", "--detach", path]) }

    func storedBlocks() throws -> Int {
        let blocks = try Tool.check(["stat", "-c", "%b", directory.path("file")])
        return Int(blocks.filter(\.isNumber)) ?? 0
    }
}

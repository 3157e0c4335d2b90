import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// What zeroes, discards and odd sizes do to an image's mapping, read back from the file.
@Suite struct MappingTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func imagesOfNoSizeAreWholeAndReadNothing() async throws {
        try Qcow2Device.create(path: image, lengthBytes: 0)
        let other = directory.path("other.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", other, "0"])
        for path in [image, other] {
            let report = try Qcow2Check.run(path: path)
            #expect(report.verdict == .clean, "\(path): \(report.findings)")
            let judge = try QemuCheck(path)
            #expect(judge.status == 0, "\(path): \(judge.errors)")
            let device = try Qcow2Device.open(path: path, readOnly: false, backing: nil)
            #expect(device.lengthBytes == 0)
            await #expect(throws: BlockError.self) { try await device.bytes(at: 0, 1) }
            try await device.close()
            #expect(try QemuCheck(path).status == 0)
        }
        let copy = directory.path("copy.raw")
        try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, copy])
        #expect(try readFile(copy).isEmpty)
    }

    @Test func zeroesTakeNoStorageWhereThereWasNone() async throws {
        let device = try make()
        for mayUnmap in [true, false] {
            let start: UInt64 = mayUnmap ? 0 : 8 << 20
            try await device.writeZeroes(
                ByteRange(offset: start, lengthBytes: 2 << 20), mayUnmap: mayUnmap)
            // Parts of clusters that read as zeroes already need none either.
            try await device.writeZeroes(
                ByteRange(offset: start + (4 << 20) + 1, lengthBytes: (2 << 20) - 2),
                mayUnmap: mayUnmap)
        }
        try await device.close()
        #expect(try Qcow2Check.run(path: image).allocatedCount == 0)
        // Over nothing, zeroes need not even be noted.
        #expect(try kinds(0, 16 << 20).isSubset(of: [.zero, .unallocated]))
    }

    @Test func unmappingZeroesGiveStorageBackAndOthersKeepIt() async throws {
        let device = try make()
        try await device.put([UInt8](repeating: 5, count: 4 << 20), at: 0)
        try await device.flush()
        try await device.writeZeroes(ByteRange(offset: 0, lengthBytes: 1 << 20), mayUnmap: true)
        try await device.writeZeroes(
            ByteRange(offset: 1 << 20, lengthBytes: 1 << 20), mayUnmap: false)
        // Zeroes over zeroes change nothing more.
        try await device.writeZeroes(ByteRange(offset: 0, lengthBytes: 1 << 20), mayUnmap: false)
        try await device.close()
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .clean && report.allocatedCount == 3 * 16)
        #expect(try kinds(0, 1 << 20).isSubset(of: [.zero, .unallocated]))
        #expect(try kinds(2 << 20, 2 << 20) == [.data])
        let read = try Tool.run([
            "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0 0 2m", "-c", "read -P 5 2m 2m", image,
        ])
        #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
    }

    @Test func zeroesHideTheBackingFileWhateverItHas() async throws {
        let base = directory.path("base.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", base, "16m"])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -z 0 4m", "-c", "write -P 3 4m 4m", base,
        ])
        try Qcow2Device.create(
            path: image, lengthBytes: 16 << 20,
            backing: Qcow2Backing(name: "base.qcow2", format: "qcow2"))
        let below = try Qcow2Device.open(path: base, readOnly: true, backing: nil)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: below)
        for start in [0, 4 << 20, 8 << 20] as [UInt64] {
            try await device.writeZeroes(
                ByteRange(offset: start + (1 << 20), lengthBytes: 1 << 20), mayUnmap: true)
            try await device.writeZeroes(
                ByteRange(offset: start + (2 << 20), lengthBytes: 1 << 20), mayUnmap: false)
        }
        try await device.close()
        try await below.close()
        for start in [0, 4 << 20, 8 << 20] as [UInt64] {
            #expect(try kinds(start + (1 << 20), 2 << 20) == [.zero])
            #expect(try kinds(start + (3 << 20), 1 << 20) == [.unallocated])
        }
        let read = try Tool.run([
            "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 3 4m 1m", "-c", "read -P 0 5m 2m", "-c",
            "read -P 3 7m 1m", image,
        ])
        #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
        #expect(try QemuCheck(image).status == 0)
    }

    @Test func discardingZeroesThatHaveStorageLeaksNothing() async throws {
        // Of QEMU's making, and of ours.
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "16m"])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write 0 256k", "-c", "write -z 0 256k", image,
        ])
        #expect(try Qcow2Check.run(path: image).allocatedCount == 4)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put([UInt8](repeating: 1, count: 1 << 18), at: 1 << 20)
        try await device.writeZeroes(
            ByteRange(offset: 1 << 20, lengthBytes: 1 << 18), mayUnmap: false)
        try await device.discard(ByteRange(offset: 0, lengthBytes: 2 << 20))
        try await device.close()
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .clean && report.allocatedCount == 0, "\(report.findings)")
        #expect(try QemuCheck(image).status == 0)
    }

    private func make() throws -> Qcow2Device {
        try Qcow2Device.create(path: image, lengthBytes: 16 << 20)
        return try Qcow2Device.open(path: image, readOnly: false, backing: nil)
    }

    /// The kinds of run in a range of the image.
    private func kinds(_ offset: UInt64, _ length: UInt64) throws -> Set<Qcow2Map.Run.Kind> {
        let map = try Qcow2Map(path: image)
        var kinds: Set<Qcow2Map.Run.Kind> = []
        var position = offset
        while position < offset + length {
            let run = try map.run(at: position, end: offset + length)
            kinds.insert(run.kind)
            position = run.range.end
        }
        return kinds
    }
}

import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Subclusters: what every kind of request does to the bits of a cluster's entry.
@Suite struct SubclusterTests {
    private let directory: TemporaryDirectory
    private let image: String
    private static let cluster = 64 << 10
    private static let unit = 2 << 10

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func writesStoreTheSubclustersTheyTouch() async throws {
        for hasBacking in [false, true] {
            let device = try await make(hasBacking)
            for (offset, count) in [
                (0, 1000), (Self.unit + 512, 512), (4 * Self.unit, 3 * Self.unit),
                (31 * Self.unit + 1024, 2 * Self.unit),
            ] {
                try await device.put(Self.bytes(count), at: offset)
            }
            try await finish(device)
            // More may be stored, as copies; none may be stored and zero at once.
            let touched: UInt32 = 0b0111_0011 | 1 << 31
            for (index, bits) in [(0, touched), (1, 0b11)] {
                let entry = try self.entry(index)
                #expect(entry.allocatedBits & bits == bits, "\(entry)")
                #expect(entry.allocatedBits & entry.zeroBits == 0, "\(entry)")
            }
            try HostDirectory.removeFile(image)
        }
    }

    /// Whole clusters, whole subclusters and parts of them; over data, over nothing, over a
    /// backing file, and over zeroes.
    @Test func zeroesAtAnyPlaceReadAsZeroes() async throws {
        for hasBacking in [false, true] {
            for mayUnmap in [false, true] {
                let device = try await make(hasBacking)
                var model = try await device.bytes(at: 0, Int(device.lengthBytes))
                try await device.put(Self.bytes(4 * Self.cluster), at: 0)
                model.replaceSubrange(0..<4 * Self.cluster, with: Self.bytes(4 * Self.cluster))
                for (offset, count) in [
                    (0, Self.cluster), (Self.cluster + Self.cluster / 2, Self.cluster),
                    (3 * Self.cluster + 15 * Self.unit + 1024, 3 * Self.unit),
                    (6 * Self.cluster + 15 * Self.unit + 1024, 2 * Self.cluster),
                    (6 * Self.cluster, 3 * Self.cluster), (31 * Self.cluster, Self.cluster),
                ] {
                    try await zero(device, offset, count, mayUnmap: mayUnmap)
                    model.replaceSubrange(
                        offset..<offset + count, with: [UInt8](repeating: 0, count: count))
                }
                let content = try await device.bytes(at: 0, model.count)
                #expect(content.firstDifference(from: model) == nil)
                try await finish(device)
                try HostDirectory.removeFile(image)
            }
        }
    }

    /// QEMU zeroes, writes and discards by subclusters; every mixture of their bits reads right.
    @Test func whatQemuDoesToSubclustersReadsTheSame() async throws {
        for hasBacking in [false, true] {
            try makeBase()
            try create(hasBacking)
            try Tool.check([
                "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1k", "-c", "write -P 2 3k 512",
                "-c", "write -P 3 62k 4k", "-c", "write -z 2k 2k", "-c", "write -P 4 128k 64k",
                "-c", "write -z -u 128k 32k", "-c", "write -P 5 160k 2k", "-c", "discard 128k 64k",
                "-c", "write -z 300k 100k", "-c", "write -c -P 6 512k 64k", "-c",
                "write -P 7 530k 1k", "-c", "write -z 640k 64k", "-c", "write -P 8 650k 512", image,
            ])
            let raw = directory.path("content.raw")
            try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw])
            let device = try Qcow2Device.open(
                path: image, readOnly: true, backing: backing(hasBacking))
            let content = try await device.bytes(at: 0, Int(device.lengthBytes))
            #expect(content.firstDifference(from: try readFile(raw)) == nil)
            try await device.close()
            #expect(try Qcow2Check.run(path: image).verdict == .clean)
            try HostDirectory.removeFile(image)
        }
    }

    @Test func discardsAndUnmappingZeroesGiveWholeClustersBack() async throws {
        let device = try await make(true)
        try await device.put(Self.bytes(4 * Self.cluster), at: 0)
        try await device.flush()
        try await device.discard(ByteRange(offset: 0, lengthBytes: UInt64(Self.cluster)))
        try await device.writeZeroes(
            ByteRange(offset: UInt64(Self.cluster), lengthBytes: UInt64(Self.cluster)),
            mayUnmap: true)
        try await finish(device)
        for index in 0...1 {
            let entry = try self.entry(index)
            #expect(entry.raw == 0 && entry.allocatedBits == 0 && entry.zeroBits == .max)
        }
        #expect(try Qcow2Check.run(path: image).allocatedCount == 2)
    }

    @Test func aWriteIntoACompressedClusterStoresAllOfIt() async throws {
        try create(false)
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -c -P 5 0 64k", "-c", "write -c -P 6 64k 64k",
            image,
        ])
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put(Self.bytes(512), at: Self.unit + 512)
        try await zero(device, Self.cluster + 16 * Self.unit, 8 * Self.unit)
        #expect(try await device.bytes(at: 0, 512).allSatisfy { $0 == 5 })
        try await finish(device)
        #expect(try entry(0).allocatedBits == .max && entry(0).zeroBits == 0)
        let read = try Tool.run([
            "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 6 64k 32k", "-c", "read -P 0 96k 16k",
            "-c", "read -P 6 112k 16k", image,
        ])
        #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
    }

    @Test func bitsThatContradictEachOtherAreRefusedAndReported() async throws {
        let device = try await make(false)
        try await device.put(Self.bytes(Self.cluster), at: 0)
        try await device.put(Self.bytes(Self.cluster), at: Self.cluster)
        try await finish(device)
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        for (bits, word) in [(0x1_0000_0001, nil), (1, 0), (1, Qcow2Layout.compressed | 1 << 20)]
            as [(UInt64, UInt64?)]
        {
            let old = try file.readNumbers(2, at: l2)
            try file.writeNumbers([word ?? old[0], bits], at: l2)
            let report = try Qcow2Check.run(path: image)
            #expect(report.kinds.contains(.subclusters), "\(bits) \(report.findings)")
            #expect(try QemuCheck(image).status == 2)
            let reader = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
            if word != Qcow2Layout.compressed | 1 << 20 {
                await #expect(throws: BlockError.self) { try await reader.bytes(at: 0, 512) }
            }
            try await reader.close()
            try file.writeNumbers(old, at: l2)
        }
    }

    /// Readers take such a cluster for what it was, so its storage must not be taken for a leak.
    @Test(arguments: [Qcow2RepairScope.leaks, .all])
    func aCompressedClusterWithBitsKeepsItsStorage(scope: Qcow2RepairScope) async throws {
        try create(false)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -c -P 5 0 64k", image])
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        try file.writeNumbers([1], at: l2 + 8)
        _ = try Qcow2Check.repair(path: image, scope)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put(Self.bytes(4 * Self.cluster), at: 4 * Self.cluster)
        #expect(try await device.bytes(at: 0, 512).allSatisfy { $0 == 5 })
        try await device.close()
    }

    private static func bytes(_ count: Int) -> [UInt8] { [UInt8](repeating: 9, count: count) }

    private func create(_ hasBacking: Bool) throws {
        var command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on"]
        if hasBacking { command += ["-b", "base.raw", "-F", "raw"] }
        try Tool.check(command + [image, "2m"])
    }

    private func makeBase() throws {
        try writeFile(directory.path("base.raw"), [UInt8](repeating: 0xFF, count: 2 << 20))
    }

    private func backing(_ hasBacking: Bool) -> MemoryDevice? {
        hasBacking ? MemoryDevice([UInt8](repeating: 0xFF, count: 2 << 20)) : nil
    }

    private func make(_ hasBacking: Bool) async throws -> Qcow2Device {
        try makeBase()
        try create(hasBacking)
        return try Qcow2Device.open(path: image, readOnly: false, backing: backing(hasBacking))
    }

    private func zero(
        _ device: Qcow2Device, _ offset: Int, _ count: Int, mayUnmap: Bool = false
    ) async throws {
        try await device.writeZeroes(
            ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count)), mayUnmap: mayUnmap)
    }

    /// Closes the device and compares what QEMU reads.
    private func finish(_ device: Qcow2Device) async throws {
        let raw = directory.path("content.raw")
        try writeFile(raw, try await device.bytes(at: 0, Int(device.lengthBytes)))
        try await device.close()
        try Tool.check(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw])
        let judge = try QemuCheck(image)
        #expect(judge.status == 0, "\(judge.errors)")
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
    }

    /// The L2 entry of a guest cluster.
    private func entry(_ index: Int) throws -> TableEntry {
        let file = try HostFile(path: image, access: .readOnly)
        let header = try StoredHeader(file: file)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        return try EntryTable(file: file, header: header, at: l2)[index]
    }
}

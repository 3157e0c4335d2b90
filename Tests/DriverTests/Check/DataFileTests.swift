import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// External data files: the image has the mapping, the other file the data.
@Suite struct DataFileTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    /// The same requests by QEMU and by this driver read the same, and as zeroes where they should.
    @Test func bothKindsOfDataFileKeepWhatIsWritten() async throws {
        for isRaw in [false, true] {
            try make(isRaw)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            try await device.put([UInt8](repeating: 17, count: 4 << 20), at: 1 << 20)
            try await device.discard(ByteRange(offset: 2 << 20, lengthBytes: 2 << 20))
            try await device.writeZeroes(
                ByteRange(offset: 3 << 20, lengthBytes: 3 << 20), mayUnmap: true)
            try await device.close()
            let read = try Tool.run([
                "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0 0 1m", "-c", "read -P 17 1m 1m",
                "-c", "read -P 0 2m 4m", image,
            ])
            #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
            let judge = try QemuCheck(image)
            #expect(judge.status == 0, "\(judge.errors)")
            #expect(try Qcow2Check.run(path: image).verdict == .clean)
            // The image itself holds no data.
            #expect(try HostFile(path: image, access: .readOnly).sizeBytes() < 1 << 20)
            guard isRaw else { continue }
            // A raw data file has the zeroes as well, and is an image of its own.
            let raw = try Tool.run([
                "qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 1m", "-c", "read -P 17 1m 1m",
                "-c", "read -P 0 3m 3m", image + ".data",
            ])
            #expect(raw.status == 0 && !raw.output.contains("failed"), "\(raw)")
        }
    }

    @Test func theMapPointsIntoTheDataFile() async throws {
        try make(false)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 17 0 1m", image])
        let map = try Qcow2Map(path: image)
        #expect(map.dataPath == image + ".data")
        let run = try map.run(at: 0, end: map.sizeBytes)
        #expect(run.kind == .data && run.hostOffset == 0 && run.range.lengthBytes == 1 << 20)
        let device = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        #expect(try await device.bytes(at: 0, 1 << 20).allSatisfy { $0 == 17 })
        try await device.close()
    }

    @Test func aDataFileThatIsMissingIsNamed() throws {
        try make(false)
        try HostDirectory.removeFile(image + ".data")
        let error = #expect(throws: BlockError.self) {
            try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        }
        #expect(error?.kind == .notFound && "\(error!)".contains("image.qcow2.data"))
        // The metadata is whole all the same.
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
        #expect(try Qcow2Info(path: image).dataFile == image + ".data")
    }

    @Test func compressedClustersBesideADataFileAreCorrupt() throws {
        try make(false)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 17 0 64k", image])
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        try file.writeNumbers([Qcow2Layout.compressed | 1 << 16], at: l2)
        #expect(try Qcow2Check.run(path: image).verdict == .corrupt)
        #expect(try QemuCheck(image).status == 2)
    }

    /// The format wants external data where the guest has it: a cluster that is said to be
    /// elsewhere would show another one's content, and take its place when it is written.
    @Test func dataThatIsSaidToBeElsewhereInADataFileIsRefused() async throws {
        for (isRaw, entry) in [
            (false, 5 << 16), (true, 5 << 16), (true, 0),
            (true, 5 << 16 | Qcow2Layout.zero),
        ] as [(Bool, UInt64)] {
            try make(isRaw)
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 17 0 384k", image])
            let file = try HostFile(path: image, access: .readWrite)
            let header = try StoredHeader(file: file)
            let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
            try file.writeNumbers([entry | Qcow2Layout.copied], at: l2 + 8)
            let report = try Qcow2Check.run(path: image)
            #expect(report.kinds == [.dataFile], "\(report.findings)")
            #expect(try Qcow2Check.repair(path: image, .all).verdict == .corrupt)
            let read = try Tool.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read 64k 64k", image])
            #expect(entry & Qcow2Layout.zero != 0 || read.output.contains("read failed"), "\(read)")
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            await expect(.corrupt) { _ = try await device.bytes(at: 1 << 16, 512) }
            await expect(.corrupt) { try await device.put([1], at: 1 << 16) }
            #expect(try await device.bytes(at: 2 << 16, 512).allSatisfy { $0 == 17 })
            try await device.close()
        }
    }

    private func make(_ isRaw: Bool) throws {
        try HostDirectory.removeFile(image)
        try HostDirectory.removeFile(image + ".data")
        let raw = isRaw ? ",data_file_raw=on" : ""
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=\(image).data\(raw)", image,
            "8m",
        ])
    }
}

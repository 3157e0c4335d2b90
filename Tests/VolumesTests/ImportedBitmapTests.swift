import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// Bitmaps that QEMU keeps in an image come along when the image becomes a volume.
@Suite struct ImportedBitmapTests {
    private let directory: TemporaryDirectory
    private var image: String { directory.path("disk.qcow2") }

    /// An image of an odd length with three bitmaps, one of which does not record, and writes of a
    /// guest of QEMU's.
    init() throws {
        directory = try TemporaryDirectory()
        let image = directory.path("disk.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "33333248"])
        try Tool.check(["qemu-img", "bitmap", "--add", "-g", "512", image, "fine"])
        try Tool.check(["qemu-img", "bitmap", "--add", "-g", "65536", image, "coarse"])
        try Tool.check(["qemu-img", "bitmap", "--add", "-g", "2097152", image, "paused"])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -P 1 70000 1000", "-c", "write -P 2 20M 3M",
            "-c", "write -P 3 33332736 512", image,
        ])
        try Tool.check(["qemu-img", "bitmap", "--disable", image, "paused"])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 4 10M 64k", image])
    }

    @Test func theirBitsAreTheOnesThatQEMUDigests() async throws {
        let expected = try ["fine", "coarse", "paused"].map(qemuDigest)
        let (volume, _) = try await imported()
        #expect(volume.bitmapStatuses().map(\.name) == ["fine", "coarse", "paused"])
        #expect(volume.bitmapStatuses().map(\.granularityBytes) == [512, 65536, 2_097_152])
        #expect(volume.bitmapStatuses().map(\.isRecording) == [true, true, false])
        #expect(
            try ["fine", "coarse", "paused"].map { try volume.digest(ofBitmap: $0) } == expected)
        #expect(try volume.dirtyRanges("fine").contains(ByteRange(offset: 69632, end: 71168)))
        try await volume.close()
    }

    @Test func theySurviveInTheCatalogAndGoOnRecording() async throws {
        let (volume, store) = try await imported()
        try await volume.write([9], at: 15 << 20)
        let before = try volume.dirtyRanges("coarse")
        #expect(before.contains(ByteRange(offset: 15 << 20, lengthBytes: 65536)))
        #expect(try volume.dirtyRanges("paused").allSatisfy { $0.end != 16 << 20 })
        _ = await store.closeAll()
        let catalog = CatalogQueue(catalog: try .init(directory: directory.path))
        let again = VolumeStore(queue: catalog, stateDirectory: directory.path)
        try await again.openAll()
        #expect(try await again.volume("disk").dirtyRanges("coarse") == before)
        _ = await again.closeAll()
    }

    @Test func afterAWriteQEMUSeesItsOwnAsInconsistentAndSoDoesALaterImport() async throws {
        let (volume, store) = try await imported()
        try await volume.write([9], at: 15 << 20)
        _ = await store.closeAll()
        let info = try Tool.check(["qemu-img", "info", "--output=json", image])
        #expect(info.components(separatedBy: "in-use").count == 4)
        let other = try TemporaryDirectory()
        let (second, _) = try await imported(state: other.path)
        #expect(second.bitmapStatuses().count == 3)
        #expect(second.bitmapStatuses().allSatisfy { $0.inconsistentReason != nil })
        #expect(throws: BlockError.self) { try second.digest(ofBitmap: "fine") }
        try await second.close()
    }

    @Test(arguments: [false, true])
    func aVolumeThatIsGivenUpLeavesThemToQEMU(isOverlay: Bool) async throws {
        if isOverlay {
            // The name of a backing file lies where the list's place is going to be noted.
            try Tool.check(["mv", image, directory.path("base.qcow2")])
            try Tool.check([
                "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
                directory.path("base.qcow2"), image,
            ])
        }
        let (volume, store) = try await imported()
        try await volume.addBitmap("ours", granularityBytes: 4096)
        for offset in [0, 5_000_000, 33_333_247] as [UInt64] {
            try await volume.write([7], at: offset)
        }
        let names = volume.bitmapStatuses().map(\.name)
        #expect(names.count == (isOverlay ? 1 : 4))
        let expected = try names.map { try volume.digest(ofBitmap: $0) }
        try await store.remove("disk", deletingFiles: false, storingBitmaps: true)
        #expect(try names.map(qemuDigest) == expected)
        try Tool.check(["qemu-img", "check", "-q", image])
        // QEMU goes on with them, and so does a later import.
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 8 8M 4k", image])
        let (again, _) = try await imported()
        #expect(
            try again.dirtyRanges("ours")
                == [
                    ByteRange(offset: 0, lengthBytes: 4096),
                    ByteRange(offset: 4_997_120, lengthBytes: 4096),
                    ByteRange(offset: 8 << 20, lengthBytes: 4096),
                    ByteRange(offset: 33_329_152, end: 33_333_248),
                ])
        #expect(try await again.contents()[33_333_247] == 7)
        try await again.close()
        try Tool.check(["qemu-img", "check", "-q", image])
    }

    @Test func aRawImageHasNoPlaceForThem() async throws {
        let raw = directory.path("disk.raw")
        try Tool.check(["truncate", "-s", "1M", raw])
        let queue = CatalogQueue(catalog: try .init(directory: directory.path))
        let store = VolumeStore(queue: queue, stateDirectory: directory.path)
        let volume = try await store.add("raw", path: raw, format: .raw).volume
        await #expect(throws: BlockError.self) {
            try await store.remove("raw", deletingFiles: false, storingBitmaps: true)
        }
        // It is served as before.
        try await volume.write([1], at: 0)
        _ = await store.closeAll()
    }

    @Test func bitsThatLieOutsideOfTheFileRefuseTheImport() async throws {
        // The first entry of the first bitmap's table, which is at the end of the file by now.
        let bytes = try readFile(image)
        let table = try #require(tableOffset(in: bytes))
        try Tool.check([
            "sh", "-c",
            "printf '\\000\\000\\100\\000\\000\\000\\000\\000' | "
                + "dd of=\(image) bs=1 seek=\(table) conv=notrunc status=none",
        ])
        do {
            _ = try await imported()
            Issue.record("the import went through")
        } catch {
            #expect("\(error)".contains("bitmap 'fine'"))
        }
    }

    private func imported(
        state: String? = nil
    ) async throws -> (volume: Volume, store: VolumeStore) {
        let state = state ?? directory.path
        let queue = CatalogQueue(catalog: try .init(directory: state))
        let store = VolumeStore(queue: queue, stateDirectory: state)
        return (try await store.add("disk", path: image, format: .qcow2).volume, store)
    }

    private func qemuDigest(of bitmap: String) throws -> String {
        let commands = [
            #"{"execute":"qmp_capabilities"}"#,
            #"{"execute":"x-debug-block-dirty-bitmap-sha256","#
                + #""arguments":{"node":"disk","name":"\#(bitmap)"}}"#,
            #"{"execute":"quit"}"#,
        ]
        let said = try Tool.check([
            "sh", "-c",
            "printf '%s\\n' '\(commands.joined(separator: "' '"))' | qemu-storage-daemon "
                + "--blockdev driver=qcow2,node-name=disk,read-only=on,"
                + "file.driver=file,file.filename=\(image) "
                + "--chardev stdio,id=monitor --monitor chardev=monitor",
        ])
        let marker = #""sha256": ""#
        let start = try #require(said.range(of: marker)?.upperBound)
        return String(said[start...].prefix(64))
    }

    /// Where the table of the bitmap "fine" is, by the directory entry before its name.
    private func tableOffset(in bytes: [UInt8]) -> Int? {
        let name = Array("fine".utf8)
        let place = (24..<bytes.count - 4).last { Array(bytes[$0..<$0 + 4]) == name }
        return place.map { place in
            bytes[place - 24..<place - 16].reduce(0) { $0 << 8 | Int($1) }
        }
    }
}

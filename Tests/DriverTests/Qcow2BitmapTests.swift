import BlockCore
import Glibc
import TestSupport
import Testing

@testable import DriverQcow2

/// Bitmaps that are stored in an image for QEMU.
@Suite struct Qcow2BitmapTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    /// Bits of a disk of `lengthBytes`, those of the granules in `dirty` set.
    private func source(
        _ name: String, granularityBytes: UInt64 = 65536, lengthBytes: UInt64, dirty: Set<Int>
    ) -> Qcow2BitmapSource {
        let granules = (lengthBytes + granularityBytes - 1) / granularityBytes
        var bits = [UInt8](repeating: 0, count: Int((granules + 63) / 64 * 8))
        for granule in dirty { bits[granule / 8] |= 1 << UInt8(granule % 8) }
        return Qcow2BitmapSource(
            name: name, granularityBytes: granularityBytes, isAutomatic: true,
            lengthBytes: UInt64(bits.count)
        ) { [bits] offset, destination in
            let part = bits.dropFirst(Int(offset)).prefix(destination.count)
            destination.initializeMemory(as: UInt8.self, repeating: 0)
            destination.copyBytes(from: part)
        }
    }

    private func dirtyGranules(_ content: Qcow2BitmapContent) throws -> Set<Int> {
        var found: Set<Int> = []
        try content.forEachDirtyRange { range in
            let granules =
                range.offset / content.granularityBytes...(range.end - 1) / content.granularityBytes
            found.formUnion(granules.map(Int.init))
        }
        return found
    }

    @Test(arguments: [512, 4096, 65536, 2 << 20])
    func whatIsStoredIsReadBackAndImagesStaySound(clusterBytes: Int) async throws {
        let lengthBytes: UInt64 = 40 << 20
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=\(clusterBytes)", image,
            "\(lengthBytes)",
        ])
        let everything = Set(0..<Int(lengthBytes / 4096))
        // A second time over the first: nothing of the first may be left.
        for round in 0..<2 {
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            try await device.storeBitmaps([
                source("empty", lengthBytes: lengthBytes, dirty: []),
                source(
                    "full", granularityBytes: 4096, lengthBytes: lengthBytes, dirty: everything),
                source("some", lengthBytes: lengthBytes, dirty: [round, 77, 639]),
            ])
            try await device.close()
            try Tool.check(["qemu-img", "check", "-q", image])
            let stored = try Qcow2BitmapContent.all(path: image)
            #expect(stored.map(\.name) == ["empty", "full", "some"])
            #expect(stored.allSatisfy { $0.isAutomatic && !$0.isInUse })
            #expect(try stored.map(dirtyGranules) == [[], everything, [round, 77, 639]])
        }
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.storeBitmaps([])
        try await device.close()
        try Tool.check(["qemu-img", "check", "-q", image])
        #expect(try Qcow2BitmapContent.all(path: image).isEmpty)
    }

    @Test func aCrashAtAnyPointLeavesTheOldListNoneOrTheNewOne() async throws {
        let lengthBytes: UInt64 = 8 << 20
        let base = directory.path("base.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", base, "\(lengthBytes)"])
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", "-F", "qcow2",
            "-b", base, image,
        ])
        var random = Seed.generator("crashes while bitmaps are stored")
        for oldName in [nil, "old"] as [String?] {
            let kept = try Qcow2BitmapContent.all(path: image).map(\.name)
            if let oldName {
                try Tool.check(["qemu-img", "bitmap", "--add", "-g", "65536", image, oldName])
            }
            let file = try RecordingFile(HostFile(path: image, access: .readWrite))
            let device = try Qcow2Device.open(file: file, readOnly: false, backing: nil)
            try await device.storeBitmaps([
                source("new", lengthBytes: lengthBytes, dirty: [0, 3, 127])
            ])
            try await device.close()
            let recorded = RecordedOperations(file)
            var seen: Set<[String]> = []
            for count in 0...file.count {
                seen.insert(try namesAfterCrash(recorded.replay(count).content))
            }
            for _ in 0..<100 {
                let loss = PowerLoss(of: [recorded], using: &random)
                seen.insert(
                    try namesAfterCrash(loss.replay([recorded], using: &random)[0].content)
                )
            }
            // Every one of them came up, or the crashes were none.
            #expect(seen == [kept + (oldName.map { [$0] } ?? []), [], ["new"]])
        }
    }

    private func namesAfterCrash(_ bytes: [UInt8]) throws -> [String] {
        let crashed = directory.path("crashed.qcow2")
        try writeFile(crashed, bytes)
        let check = try Tool.run(["qemu-img", "check", "-q", crashed])
        #expect(check.status == 0 || check.status == 3, "\(check.output)\(check.errors)")
        let info = try Qcow2Info(path: crashed)
        #expect(info.problems.isEmpty && info.backing?.name == directory.path("base.qcow2"))
        let stored = try Qcow2BitmapContent.all(path: crashed)
        for content in stored where content.name == "new" {
            #expect(try dirtyGranules(content) == [0, 3, 127])
        }
        return stored.map(\.name)
    }
}

import BlockCore
import DriverRaw
import TestSupport
import Testing

@testable import DriverQcow2

/// The size of an image changes; random sizes are among the operations of `Qcow2VariantTests`.
@Suite struct Qcow2ResizeTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test(arguments: [2, 3] as [UInt32])
    func growthReadsZeroesOverALongerBackingFile(version: UInt32) async throws {
        let below = directory.path("below.raw")
        try writeFile(below, [UInt8](repeating: 5, count: 1 << 20))
        var options = Qcow2Options(clusterBytes: 4096)
        options.version = version
        try Qcow2Device.create(
            path: image, lengthBytes: 100_352, options: options,
            backing: Qcow2Backing(name: "below.raw", format: "raw"))
        let backing = try RawDevice.open(path: below, readOnly: true)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
        #expect(try await device.bytes(at: 100_351, 1) == [5])
        try await device.resize(to: 300_000)
        #expect(device.lengthBytes == 300_032)
        let model =
            [UInt8](repeating: 5, count: 100_352) + [UInt8](repeating: 0, count: 199_680)
        #expect(try await device.bytes(at: 0, 300_032) == model)
        try await device.close()
        try writeFile(directory.path("model.raw"), model)
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", image, directory.path("model.raw")])
    }

    @Test func aLargeGrowthMovesTheL1Table() async throws {
        // An L1 table of one cluster maps 2 MiB here.
        try Qcow2Device.create(path: image, lengthBytes: 1 << 20, clusterBytes: 512)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put([1, 2, 3], at: 7)
        try await device.resize(to: 1 << 30)
        try await device.put([4, 5, 6], at: 1 << 30 - 3)
        #expect(try await device.bytes(at: 7, 3) == [1, 2, 3])
        #expect(try await device.bytes(at: 1 << 30 - 4, 4) == [0, 4, 5, 6])
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
        let again = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        #expect(try await again.bytes(at: 1 << 30 - 4, 4) == [0, 4, 5, 6])
        try await again.close()
        await expect(.invalid) {
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            try await device.resize(to: 1 << 50)
        }
    }

    @Test func whatIsCutOffDoesNotComeBack() async throws {
        try Qcow2Device.create(path: image, lengthBytes: 1 << 20)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put([UInt8](repeating: 3, count: 1 << 20), at: 0)
        try await device.resize(to: 100_352)
        await expect(.outOfRange) { _ = try await device.bytes(at: 100_352, 1) }
        try await device.resize(to: 1 << 20)
        let zeroes = [UInt8](repeating: 0, count: 1 << 20 - 100_352)
        #expect(try await device.bytes(at: 100_352, zeroes.count) == zeroes)
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
    }

    @Test func snapshotsThatRecordNoSizeRuleAResizeOut() async throws {
        for (compat, isRefused) in [("0.10", true), ("1.1", false)] {
            try Tool.check([
                "qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=\(compat)", image, "1m",
            ])
            try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            if isRefused {
                await expect(.unsupported) { try await device.resize(to: 512 << 10) }
                await expect(.unsupported) { try await device.resize(to: 2 << 20) }
                #expect(device.lengthBytes == 1 << 20)
            } else {
                try await device.resize(to: 512 << 10)
            }
            try await device.close()
            try Tool.check(["qemu-img", "check", image])
            try Tool.check(["qemu-img", "snapshot", "-a", "before", image])
            #expect(try Qcow2Header(path: image).sizeBytes == 1 << 20)
        }
    }
}

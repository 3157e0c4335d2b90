import BlockCore
import DriverQcow2
import DriverRaw
import TestSupport
import Testing

/// The shared suite, run for each driver and for the devices that tests are made of.
@Suite struct ConformanceTests {
    @Test func memoryDeviceConforms() async throws {
        let content = pattern(50_001)
        let fixture = DeviceFixture("memory", content: content) { MemoryDevice(content) }
        try await BlockDeviceConformance(fixture).runAll()
    }

    @Test func faultDeviceConformsWhileNothingFails() async throws {
        let content = pattern(50_001)
        let fixture = DeviceFixture("fault", content: content) {
            FaultDevice(MemoryDevice(content))
        }
        try await BlockDeviceConformance(fixture).runAll()
    }

    @Test(arguments: [10_000, 1 << 20, 300_001])
    func rawFileConforms(lengthBytes: Int) async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.raw")
        let content = pattern(lengthBytes)
        let fixture = DeviceFixture(
            "raw \(lengthBytes)", content: content,
            make: {
                try writeFile(path, content)
                return try RawDevice.open(path: path, readOnly: false)
            }, reopen: { try RawDevice.open(path: path, readOnly: false) })
        try await BlockDeviceConformance(fixture).runAll()
    }

    @Test(arguments: [512, 4096, 65536, 2 << 20] as [UInt64])
    func qcow2WithoutBackingConforms(clusterBytes: UInt64) async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.qcow2")
        // Three clusters and a half at least, of a length that is no multiple of the cluster.
        let lengthBytes = max(300_032, Int(clusterBytes * 7 / 2) + 512)
        let fixture = DeviceFixture(
            "qcow2 \(clusterBytes)", content: [UInt8](repeating: 0, count: lengthBytes),
            make: {
                try HostDirectory.removeFile(path)
                try Qcow2Device.create(
                    path: path, lengthBytes: UInt64(lengthBytes), clusterBytes: clusterBytes)
                return try Qcow2Device.open(path: path, readOnly: false, backing: nil)
            },
            reopen: {
                try Tool.check(["qemu-img", "check", path])
                return try Qcow2Device.open(path: path, readOnly: false, backing: nil)
            })
        try await BlockDeviceConformance(fixture).runAll()
        try Tool.check(["qemu-img", "check", path])
    }

    @Test(arguments: [4096, 65536, 2 << 20] as [UInt64], [0, 513, 77_777, 8 << 20])
    func qcow2OverBackingConforms(clusterBytes: UInt64, backingBytes: Int) async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("disk.qcow2")
        let lengthBytes = max(300_032, Int(clusterBytes * 7 / 2) + 512)
        let below = pattern(max(backingBytes, 1))
        var content = [UInt8](repeating: 0, count: lengthBytes)
        let shown = min(below.count, lengthBytes)
        content.replaceSubrange(0..<shown, with: below[..<shown])
        let backing = MemoryDevice(below, name: "below", readOnly: true)
        let fixture = DeviceFixture(
            "qcow2 \(clusterBytes) over \(below.count)", content: content,
            make: {
                try HostDirectory.removeFile(path)
                try Qcow2Device.create(
                    path: path, lengthBytes: UInt64(lengthBytes), clusterBytes: clusterBytes,
                    backing: Qcow2Backing(name: "below", format: "raw"))
                return try Qcow2Device.open(path: path, readOnly: false, backing: backing)
            }, reopen: { try Qcow2Device.open(path: path, readOnly: false, backing: backing) })
        try await BlockDeviceConformance(fixture).runAll()
        #expect(backing.content == below)
    }

    private func pattern(_ count: Int) -> [UInt8] {
        var random = Seed.generator("content of \(count) bytes")
        return random.bytes(count)
    }
}

import BlockCore
import DriverQcow2
import DriverRaw
import Foundation
import Testing

@testable import NBDServer

/// A raw or qcow2 file that is served while a test runs, and then judged by qemu-img.
struct RealDisk {
    static let sizeBytes = 8 << 20

    let fixture: ServerFixture
    let format: String
    let imagePath: String

    /// Where clients find it.
    var uri: String { "nbd+unix:///disk?socket=\(fixture.socketPath)" }

    /// A file in the test's own folder.
    func path(_ name: String) -> String { "\(fixture.folder)/\(name)" }

    /// A file that is as long as the disk, with data, zeroes and a hole. Returns its path.
    func makeFile(_ name: String, seed: UInt8) throws -> String {
        var data = Data(pattern(Self.sizeBytes, seed))
        data.resetBytes(in: 1 << 20..<3 << 20)
        try data.write(to: URL(fileURLWithPath: path(name)))
        return path(name)
    }

    /// Serves an empty disk of `format` with a dirty bitmap `b0` of fixed content, runs `body`,
    /// stops, and checks the image that is left. `expected` names a raw file in the test's folder
    /// that it must equal.
    static func serve(
        _ format: String, expected: String? = nil, _ body: (RealDisk) async throws -> Void
    ) async throws {
        let folder = NSTemporaryDirectory() + "tidemark-disk-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let image = "\(folder)/disk.\(format)"
        let device: any BlockDevice
        if format == "raw" {
            try RawDevice.create(path: image, lengthBytes: UInt64(sizeBytes))
            device = try RawDevice.open(path: image, readOnly: false)
        } else {
            _ = try tool("/usr/bin/qemu-img", "create", "-q", "-f", format, image, "\(sizeBytes)")
            device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        }
        let dirty = ByteRange(offset: 2 << 20, lengthBytes: 1 << 20)
        let export = DeviceExport(
            "disk", device, description: "a \(format) disk", bitmaps: ["b0": [dirty]])
        try await ServerFixture.run([export]) { fixture in
            let disk = RealDisk(fixture: fixture, format: format, imagePath: image)
            try await body(disk)
            if let expected {
                try FileManager.default.moveItem(
                    atPath: disk.path(expected), toPath: "\(folder)/expected")
            }
        }
        try await device.close()
        if format == "qcow2" { _ = try tool("/usr/bin/qemu-img", "check", image) }
        if expected != nil {
            _ = try tool(
                "/usr/bin/qemu-img", "compare", "-f", format, "-F", "raw", image,
                "\(folder)/expected")
        }
    }
}

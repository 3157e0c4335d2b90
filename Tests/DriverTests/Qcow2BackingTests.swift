import BlockCore
import DriverRaw
import Foundation
import TestSupport
import Testing

@testable import DriverQcow2

/// The name of the backing file changes while the image is open, with QEMU as the judge.
@Suite struct Qcow2BackingTests {
    private let directory: TemporaryDirectory
    private var image: String { directory.path("image.qcow2") }

    init() throws {
        directory = try TemporaryDirectory()
        for name in ["a", "b", String(repeating: "long", count: 50)] {
            try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", directory.path(name), "1M"])
        }
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", directory.path("c"), "1M"])
    }

    private func create(_ options: String...) throws {
        try Tool.check(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2"] + options
                + [image])
    }

    private func named() throws -> (name: String?, format: String?) {
        struct Info: Decodable {
            let name: String?
            let format: String?

            private enum CodingKeys: String, CodingKey {
                case name = "backing-filename"
                case format = "backing-filename-format"
            }
        }
        try Tool.check(["qemu-img", "check", "-q", image])
        let text = try Tool.check(["qemu-img", "info", "-U", "--output=json", image])
        let info = try JSONDecoder().decode(Info.self, from: Data(text.utf8))
        return (info.name, info.format)
    }

    @Test(arguments: [[], ["-o", "compat=0.10"], ["-o", "cluster_size=4k"]])
    func namesReplaceEachOtherInAnyOrder(options: [String]) async throws {
        try Tool.check(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2"] + options
                + [image])
        let long = String(repeating: "long", count: 50)
        let names = [
            ("b", "qcow2"), (long, "qcow2"), ("c", "raw"), ("a", "qcow2"), (long, "qcow2"),
            ("c", "raw"), ("b", "qcow2"),
        ]
        for (name, format) in names {
            let backing = try RawDevice.open(path: directory.path("c"), readOnly: true)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
            try await device.write(at: 5000, from: .holding([1, 2, 3]))
            try await device.setBacking(Qcow2Backing(name: name, format: format))
            #expect(device.backingName?.name == name)
            // It goes on as it was opened.
            try await device.write(at: 200_000, from: .holding([4]))
            try await device.close()
            let found = try named()
            #expect(found.name == name && found.format == format)
        }
        let device = try Qcow2Device.open(
            path: image, readOnly: false,
            backing: try RawDevice.open(path: directory.path("c"), readOnly: true))
        try await device.setBacking(nil)
        try await device.close()
        #expect(try named().name == nil)
    }

    @Test func whatFollowsTheExtensionsStays() async throws {
        try create()
        try Tool.check(["qemu-img", "bitmap", "--add", image, "kept"])
        let backing = try RawDevice.open(path: directory.path("c"), readOnly: true)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
        try await device.setBacking(Qcow2Backing(name: "c", format: "raw"))
        try await device.close()
        #expect(try named().name == "c")
        let info = try Tool.check(["qemu-img", "info", image])
        #expect(info.contains("name: kept"))
    }

    @Test func aNameThatIsTooLongIsRefused() async throws {
        try create()
        let backing = try RawDevice.open(path: directory.path("c"), readOnly: true)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
        await #expect(throws: BlockError.self) {
            try await device.setBacking(
                Qcow2Backing(name: String(repeating: "x", count: 1024), format: "qcow2"))
        }
        try await device.close()
        #expect(try named().name == "a")
    }
}

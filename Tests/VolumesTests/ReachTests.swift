import BlockCore
import TestSupport
import Testing

@testable import Volumes

/// What an image may name that a user brings.
@Suite struct ReachTests {
    private let fixture: VolumeFixture
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        fixture = try VolumeFixture()
        directory = try TemporaryDirectory()
        try Tool.check(["mkdir", "-p", directory.path("images/base")])
        image = directory.path("images/disk.qcow2")
        try writeFile(directory.path("secret"), [UInt8](repeating: 7, count: 65536))
    }

    @Test func filesOutsideOfTheImagesFolderTakeAnOption() async throws {
        let secret = directory.path("secret")
        for name in [secret, "../secret", "base/../../secret"] {
            try create("-b", name, "-F", "raw")
            try await expectRefusal(naming: "secret")
        }
        // The link is in the folder, what it leads to is not.
        try Tool.check(["ln", "-s", secret, directory.path("images/link")])
        try create("-b", "link", "-F", "raw")
        try await expectRefusal(naming: "link")
        // A server is no file of the folder either.
        try create("-u", "-b", "nbd+unix:///x?socket=/run/x.sock", "-F", "raw")
        try await expectRefusal(naming: "nbd+unix")
        // Nor is one further down allowed what the top is not.
        let middle = directory.path("images/middle.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", middle,
        ])
        try create("-b", "middle.qcow2", "-F", "qcow2")
        try await expectRefusal(naming: "secret")

        let (store, _) = try await fixture.start()
        let (volume, _) = try await store.add(
            "disk", path: image, format: .qcow2, reach: .anywhere)
        #expect(volume.chain.nodes.map(\.path) == [image, middle, secret])
        #expect(try await volume.bytes(at: 0, 16) == [UInt8](repeating: 7, count: 16))
        #expect(await store.closeAll().isEmpty)
        // What was allowed once is opened again.
        let (again, _) = try await fixture.start()
        #expect(await again.unavailable().isEmpty)
        #expect(await again.closeAll().isEmpty)
    }

    @Test func aDataFileOutsideOfTheImagesFolderTakesAnOption() async throws {
        let data = directory.path("data")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=\(data)", image, "1M",
        ])
        try await expectRefusal(naming: data)
        let (store, _) = try await fixture.start()
        let (volume, _) = try await store.add(
            "disk", path: image, format: .qcow2, reach: .anywhere)
        #expect(volume.dataFilePaths == [image: data])
        #expect(await store.closeAll().isEmpty)
    }

    @Test func filesInTheImagesFolderTakeNone() async throws {
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "raw", directory.path("images/base/b.raw"), "1M",
        ])
        // By way of a link to the folder, too.
        try Tool.check(["ln", "-s", directory.path("images"), directory.path("way")])
        try create("-b", "base/b.raw", "-F", "raw")
        let (store, _) = try await fixture.start()
        _ = try await store.add("disk", path: directory.path("way/disk.qcow2"), format: .qcow2)
        #expect(await store.closeAll().isEmpty)
    }

    private func create(_ options: String...) throws {
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2"] + options + [image, "1M"])
    }

    private func expectRefusal(naming name: String) async throws {
        let (store, _) = try await fixture.start()
        let error = await #expect(throws: BlockError.self) {
            try await store.add("disk", path: image, format: .qcow2)
        }
        let text = "\(error!)"
        #expect(error?.kind == .invalid, "\(text)")
        #expect(text.contains(name) && text.contains("--allow-outside"), "\(text)")
        #expect(await store.volumes().isEmpty)
    }
}

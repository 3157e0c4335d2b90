import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Control

/// The image commands of the built command line, which need no agent.
struct ImageToolTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
        try TestSupport.Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "1m"])
        try TestSupport.Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 100k", image])
    }

    @Test func aWholeImageEndsWithZero() async throws {
        let text = try await run("image", "check", image)
        #expect(text.status == 0 && text.output.contains("no errors"), "\(text)")
        let json = try await run("image", "check", image, "--json")
        #expect(json.document?["verdict"] == "clean" && json.document?["leaks"] == 0)
        #expect(json.document?["allocated-clusters"] == 2)
    }

    @Test func leaksEndWithThreeAndGoWithARepair() async throws {
        try change { $0[0x20001] = 2 }
        let tool = try await run("image", "check", image, "--json")
        #expect(tool.status == 3 && tool.document?["leaks"] == 1, "\(tool)")
        #expect(tool.errors.contains("--repair leaks"))
        let repaired = try await run("image", "check", "--repair", "leaks", image, "--json")
        #expect(repaired.status == 0 && repaired.document?["leaks-fixed"] == 1, "\(repaired)")
        try TestSupport.Tool.check(["qemu-img", "check", image])
    }

    @Test func corruptionEndsWithOneAndGoesWithARepair() async throws {
        try change { $0[0x20001] = 0 }
        let tool = try await run("image", "check", image, "--json")
        #expect(tool.status == 1 && tool.document?["verdict"] == "corrupt", "\(tool)")
        #expect(tool.errors.contains("--repair all"))
        let repaired = try await run("image", "check", "--repair", "all", image)
        #expect(repaired.status == 0 && repaired.output.contains("repaired: 1 errors"))
        try TestSupport.Tool.check(["qemu-img", "check", image])
    }

    @Test func anImageThatIsInUseIsNotRepaired() async throws {
        try change { $0[0x20001] = 2 }
        let user = try ImageLock(path: image, use: .reading)
        let refused = try await run("image", "check", "--repair", "leaks", image)
        #expect(refused.status == 11 && refused.errors.contains(image), "\(refused)")
        user.release()
        #expect(try await run("image", "check", "--repair", "leaks", image).status == 0)
    }

    @Test func whatIsNoImageIsSaidToBeNone() async throws {
        let raw = directory.path("image.raw")
        try TestSupport.Tool.check(["qemu-img", "create", "-q", "-f", "raw", raw, "1m"])
        for command in ["check", "info", "map"] {
            let missing = try await run("image", command, directory.path("none"), "--json")
            #expect(missing.status == 1 && missing.document?["error"]?["exit-code"] == 1)
            #expect(missing.errors.contains("none"))
            let wrong = try await run("image", command, "--format", "qcow2", raw)
            #expect(wrong.status == 1 && wrong.errors.contains("not a qcow2 image"), "\(wrong)")
        }
        #expect(try await run("image", "check", raw).status == 1)
        #expect(try await run("image", "check").status == 64)
        #expect(try await run("image", "check", "--repair", "some", image).status == 64)
    }

    @Test func theFactsAndTheMapAreThere() async throws {
        let info = try await run("image", "info", image, "--json")
        #expect(info.document?["virtual-size"] == 1_048_576 && info.document?["format"] == "qcow2")
        #expect(info.document?["cluster-size"] == 65536)
        let text = try await run("image", "info", image)
        #expect(text.output.contains("qcow2, version 3") && text.output.contains("1 MiB"))
        let map = try await run("image", "map", image, "--json")
        #expect(map.document?.arrayValue?.count == 2)
        #expect(map.document?.arrayValue?.first?["length"] == 131072)
        #expect(map.document?.arrayValue?.first?["offset"] == 327680, "\(map)")
        #expect(map.document?.arrayValue?.last?["zero"] == true)
        #expect(try await run("image", "map", image).output.contains("data"))
    }

    private func run(_ arguments: String...) async throws -> Tool {
        try await Tool.run(state: directory.path, arguments)
    }

    private func change(_ body: (inout [UInt8]) -> Void) throws {
        var bytes = Array(try Data(contentsOf: URL(fileURLWithPath: image)))
        body(&bytes)
        try Data(bytes).write(to: URL(fileURLWithPath: image))
    }
}

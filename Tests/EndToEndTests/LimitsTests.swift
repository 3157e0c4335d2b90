import Foundation
import TestSupport
import Testing

/// What the agent takes from the system, and what it takes from users' images.
@Suite(.serialized) struct LimitsTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test func theLimitOnDescriptorsIsRaisedAsFarAsItMayBe() throws {
        let agent = try AgentProcess(
            state: directory.path("state"), under: ["prlimit", "--nofile=128:4096"])
        let limits = try String(
            contentsOfFile: "/proc/\(agent.identifier)/limits", encoding: .utf8)
        let line = try #require(
            limits.split(separator: "\n").first { $0.hasPrefix("Max open files") })
        #expect(line.split(separator: " ")[3] == "4096", "\(line)")
    }

    @Test func anImageThatNamesAFileElsewhereIsRefusedUntilTheUserSaysSo() throws {
        let agent = try AgentProcess(state: directory.path("state"))
        try Tool.check(["mkdir", directory.path("images")])
        let secret = directory.path("secret")
        try writeFile(secret, [UInt8](repeating: 7, count: 65536))
        let image = directory.path("images/disk.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", image,
        ])
        let bringing = ["volume", "import", "disk", image, "--format", "qcow2"]
        let create = [
            "volume", "create", "over", "--backing", image, "--backing-format", "qcow2",
        ]
        for command in [bringing, create] {
            let refused = try agent.run(command)
            #expect(refused.status == 1)
            #expect(
                refused.errors.contains(secret) && refused.errors.contains("--allow-outside"),
                "\(refused.errors)")
        }
        #expect(try agent.run(create + ["--allow-outside"]).status == 0)
        try agent.tell("volume", "remove", "over")
        // All of the chain is shown.
        let done = try agent.run(bringing + ["--allow-outside"])
        #expect(done.status == 0 && done.output.contains(image) && done.output.contains(secret))
    }
}

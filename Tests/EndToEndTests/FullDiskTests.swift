import Foundation
import TestSupport
import Testing

/// A volume whose own disk is full: its guest gets ENOSPC, the host an event, other volumes go on,
/// and when there is room again so does it.
@Suite(.serialized) struct FullDiskTests {
    /// A small file system in memory, unmounted at the end.
    private final class SmallDisk {
        let path: String

        init(at path: String, megabytes: Int) throws {
            self.path = path
            try FileManager.default.createDirectory(
                atPath: path, withIntermediateDirectories: true)
            try Tool.check([
                "mount", "-t", "tmpfs", "-o", "size=\(megabytes)m", "tidemark-test", path,
            ])
        }

        deinit { _ = try? Tool.run(["umount", "-l", path]) }
    }

    @Test(arguments: ["raw", "qcow2"])
    func itsGuestGetsENOSPCAndGoesOnWhenThereIsRoom(format: String) throws {
        let directory = try TemporaryDirectory()
        let disk = try SmallDisk(at: directory.path("small"), megabytes: 16)
        let agent = try AgentProcess(state: directory.path("state"))
        let image = disk.path + "/disk.\(format)"
        try Tool.check(["qemu-img", "create", "-q", "-f", format, image, "64M"])
        try agent.tell("volume", "import", "small", image, "--format", format)
        try agent.tell("volume", "create", "other", "--size", "64M")
        try agent.tell("bitmap", "add", "small", "changes")
        let events = try EventLog(agent, to: directory.path("events"))

        // Half of it fits.
        try io(agent, "small", "write -P 1 0 8M")
        let failed = try run(agent, "small", "write -P 2 8M 32M")
        #expect(failed.output.contains("No space left on device"), "\(failed.output)")
        try io(agent, "other", "write -P 3 0 8M")
        try io(agent, "other", "flush")
        try io(agent, "small", "read -P 1 0 8M")
        let event = try events.wait(for: "BLOCK_IO_ERROR")
        #expect(event.contains("\"nospace\": true") || event.contains("\"nospace\":true"))
        #expect(event.contains("small"), "\(event)")

        try Tool.check(["mount", "-o", "remount,size=96m", disk.path])
        try io(agent, "small", "write -P 2 8M 32M")
        try io(agent, "small", "read -P 2 8M 32M")
        try io(agent, "small", "flush")
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        try Tool.check(["qemu-io", "-r", "-f", format, "-c", "read -P 2 8M 32M", image])
        if format == "qcow2" { try Tool.check(["qemu-img", "check", "-q", image]) }
    }

    private func run(
        _ agent: AgentProcess, _ volume: String, _ command: String
    ) throws -> ToolResult {
        try Tool.run(["qemu-io", "-f", "raw", "-c", command, agent.uri(volume)])
    }

    private func io(_ agent: AgentProcess, _ volume: String, _ command: String) throws {
        let result = try run(agent, volume, command)
        guard result.status == 0, !result.output.contains("failed") else {
            throw Tool.Failure(
                description: "\(volume): \(command): \(result.output)\(result.errors)")
        }
    }
}

import Foundation
import TestSupport
import Testing

/// Exports besides those that volumes have under their own names.
@Suite(.serialized) struct ExportTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "8M")
        try qemuIO("write -P 1 0 1M", "write -P 2 4M 64k")
    }

    private func qemuIO(_ commands: String..., volume: String = "disk") throws {
        try Tool.check(
            ["qemu-io", "-f", "raw"] + commands.flatMap { ["-c", $0] } + [agent.uri(volume)])
    }

    private func fails(_ arguments: String..., saying text: String) throws {
        let result = try agent.run(arguments)
        #expect(result.status == 1 && result.errors.contains(text), "\(result.errors)")
    }

    private func exports() throws -> [[String: Any]] {
        let text = try agent.tell("--json", "export", "list")
        return try #require(
            JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]])
    }

    @Test func aVolumeIsOfferedSeveralTimesWithChosenBitmaps() throws {
        try agent.tell("bitmap", "add", "disk", "a", "--granularity", "64K")
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        try qemuIO("write -P 3 2M 64k")
        try agent.tell("export", "add", "disk", "--name", "reader", "--read-only", "--bitmap", "a")
        try agent.tell("export", "add", "disk", "--name", "writer")
        let listed = try exports()
        #expect(listed.compactMap { $0["name"] as? String } == ["disk", "reader", "writer"])
        #expect(listed.compactMap { $0["writable"] as? Bool } == [true, false, true])
        #expect(listed.compactMap { $0["bitmaps"] as? [String] } == [["a", "b"], ["a"], []])
        #expect(listed.allSatisfy { $0["node-name"] as? String == "disk" })

        try qemuIO("write -P 4 6M 64k", volume: "writer")
        try qemuIO("read -P 4 6M 64k", "read -P 1 0 1M", volume: "disk")
        let refused = try Tool.run([
            "qemu-io", "-f", "raw", "-c", "write 0 4k", agent.uri("reader"),
        ])
        #expect(refused.status != 0)
        let map = try Tool.check(["nbdinfo", "--map=qemu:dirty-bitmap:a", agent.uri("reader")])
        #expect(map.split(separator: "\n").filter { $0.contains("dirty") }.count == 2)
        let info = try Tool.check(["nbdinfo", agent.uri("reader")])
        #expect(!info.contains("qemu:dirty-bitmap:b") && info.contains("is_read_only: true"))

        // Readers share a bitmap, and changing it is fine; it must only not go away.
        try agent.tell("export", "add", "disk", "--name", "second", "--bitmap", "a")
        try fails("bitmap", "remove", "disk", "a", saying: "an export offers it")
        try agent.tell("bitmap", "clear", "disk", "a")
        try agent.tell("export", "remove", "reader")
        try fails("bitmap", "remove", "disk", "a", saying: "an export offers it")
        try agent.tell("export", "remove", "second")
        try agent.tell("bitmap", "remove", "disk", "a")

        try fails("export", "add", "disk", saying: "already in use")
        try fails("export", "add", "disk", "--name", "x", "--bitmap", "a", saying: "not found")
        try fails("export", "add", "nothing", saying: "no point begins so")
        try fails("export", "remove", "x", saying: "not found")
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    @Test func aRestorePointIsOffered() throws {
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        _ = try agent.backUp("disk")
        let before = try agent.copy("disk", to: directory.path("before"))
        try qemuIO("write -P 9 512k 1M", "discard 4M 64k")
        let point = try agent.backUp("disk")
        let after = try agent.copy("disk", to: directory.path("after"))
        try qemuIO("write -P 8 0 2M")

        try agent.tell("export", "add", "disk@-1", "--name", "before")
        try agent.tell("export", "add", point.id)
        for (name, content) in [("before", before), (point.id, after)] {
            #expect(try agent.copy(name, to: directory.path(name)) == content)
            let map = try Tool.check(["nbdinfo", "--map", agent.uri(name)])
            #expect(map.contains("hole,zero"))
            let refused = try Tool.run([
                "qemu-io", "-f", "raw", "-c", "write 0 4k", agent.uri(name),
            ])
            #expect(refused.status != 0)
        }
        let listed = try exports()
        #expect(listed.count == 3)
        #expect(listed.first { $0["name"] as? String == point.id }?["writable"] as? Bool == false)
        try fails("export", "add", "disk@latest", "--bitmap", "x", saying: "no volume")
        try agent.tell("export", "remove", "before")
        try agent.tell("export", "remove", point.id)
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    @Test func anExportInUseStaysUnlessForced() throws {
        try agent.tell("export", "add", "disk", "--name", "other")
        let events = try agent.begin("events")
        defer { events.terminate() }
        let client = Process()
        client.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        let (input, output) = (Pipe(), Pipe())
        client.arguments = ["-c", Self.client, agent.uri("other")]
        client.standardInput = input
        client.standardOutput = output
        try client.run()
        #expect(output.fileHandleForReading.availableData == Data("connected\n".utf8))
        try fails("export", "remove", "other", saying: "still in use by 1 NBD clients")
        try fails("volume", "remove", "disk", saying: "in use by 1 NBD clients")
        try agent.tell("export", "remove", "other", "--hard")
        input.fileHandleForWriting.write(Data("\n".utf8))
        #expect(output.fileHandleForReading.availableData == Data("lost\n".utf8))
        client.waitUntilExit()
        #expect(try exports().count == 1)
        // The volume goes on, and its own export is gone only with it.
        try qemuIO("read -P 2 4M 64k")
        try agent.tell("volume", "remove", "disk")
        #expect(try exports().isEmpty)
    }

    private static let client = """
        import nbd, os, sys
        h = nbd.NBD()
        h.connect_uri(sys.argv[1])
        os.write(1, b"connected\\n")
        sys.stdin.readline()
        try:
            h.pread(4096, 0)
            os.write(1, b"served\\n")
        except nbd.Error:
            os.write(1, b"lost\\n")
        """

    @Test func programsAddAndRemoveExportsInQEMUsWords() throws {
        try agent.tell(
            "qmp", "block-export-add",
            #"{"type": "nbd", "id": "e", "node-name": "disk", "name": "n", "writable": true}"#)
        let listed = try #require(try exports().first { $0["id"] as? String == "e" })
        #expect(listed["type"] as? String == "nbd" && listed["name"] as? String == "n")
        #expect(listed["shutting-down"] as? Bool == false)
        try fails(
            "qmp", "block-export-add", #"{"type": "nbd", "id": "e", "node-name": "disk"}"#,
            saying: "already in use")
        try fails(
            "qmp", "block-export-add", #"{"type": "nbd", "id": "f", "node-name": "none"}"#,
            saying: "nor node-name='none'")
        try fails("qmp", "block-export-add", #"{"type": "nbd", "id": "f"}"#, saying: "Give one of")
        try agent.tell("qmp", "block-export-del", #"{"id": "e", "mode": "hard"}"#)
        try fails("qmp", "block-export-del", #"{"id": "e"}"#, saying: "Export 'e' is not found")
    }

    @Test func aSecondSocketOffersTheSameExportsUntilItIsClosed() throws {
        let socket = directory.path("second.sock")
        let address = #"{"addr": {"type": "unix", "data": {"path": "\#(socket)"}}}"#
        try fails("qmp", "nbd-server-stop", saying: "NBD server not running")
        try agent.tell("qmp", "nbd-server-start", address)
        try fails("qmp", "nbd-server-start", address, saying: "NBD server already running")
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        try agent.tell(
            "qmp", "nbd-server-add",
            #"{"device": "disk", "name": "n", "writable": true, "bitmap": "b"}"#)
        let uri = "nbd+unix:///n?socket=\(socket)"
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 3M 64k", uri])
        try qemuIO("read -P 9 3M 64k")
        let map = try Tool.check(["nbdinfo", "--map=qemu:dirty-bitmap:b", uri])
        #expect(map.contains("dirty"))
        try agent.tell("qmp", "nbd-server-remove", #"{"name": "n"}"#)
        #expect(try exports().count == 1)
        try agent.tell("qmp", "nbd-server-stop")
        #expect(!FileManager.default.fileExists(atPath: socket))
        // The agent's own socket has not noticed.
        try qemuIO("read -P 9 3M 64k")
    }

    @Test func clientsAreToldThatTheAgentEnds() throws {
        let directory = try TemporaryDirectory()
        let agent = try AgentProcess(state: directory.path("state"))
        let events = try EventLog(agent, to: directory.path("events"))
        agent.stop(SIGTERM)
        #expect(try events.wait(for: "SHUTDOWN").contains("host-signal"))
    }
}

import Foundation
import TestSupport
import Testing

/// Nodes of the block graph beside the volumes, by QEMU's commands and under its tools.
@Suite(.serialized) struct NodeTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess
    private static let lengthBytes = 4 << 20

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "4M")
        try qemuIO("disk", "write -P 1 0 4M")
    }

    private func qemuIO(_ export: String, _ commands: String...) throws {
        try Tool.check(
            ["qemu-io", "-f", "raw"] + commands.flatMap { ["-c", $0] } + [agent.uri(export)])
    }

    private func qmp(_ command: String, _ arguments: String) throws {
        try agent.tell("qmp", command, arguments)
    }

    private func fails(_ command: String, _ arguments: String, saying text: String) throws {
        let result = try agent.run(["qmp", command, arguments])
        #expect(result.status == 1 && result.errors.contains(text), "\(result.errors)")
    }

    private func image(_ name: String, backing: String? = nil) throws -> String {
        let path = directory.path("\(name).qcow2")
        var command = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if let backing { command += ["-b", backing, "-F", "qcow2"] }
        try Tool.check(command + [path, "4M"])
        return path
    }

    private func add(_ node: String, _ path: String, _ more: String = "") throws {
        try qmp(
            "blockdev-add",
            #"{"driver": "qcow2", "node-name": "\#(node)", "file": {"driver": "file", "#
                + #""filename": "\#(path)"}\#(more)}"#)
    }

    private func export(_ node: String, writable: Bool = true) throws {
        try qmp(
            "block-export-add",
            #"{"type": "nbd", "id": "e-\#(node)", "node-name": "\#(node)", "#
                + #""writable": \#(writable)}"#)
    }

    private struct NodeInfo: Decodable {
        struct Image: Decodable {
            let virtualSize: Int

            private enum CodingKeys: String, CodingKey { case virtualSize = "virtual-size" }
        }
        let name: String
        let driver: String
        let file: String
        let isReadOnly: Bool
        let image: Image

        private enum CodingKeys: String, CodingKey {
            case file, image
            case name = "node-name"
            case driver = "drv"
            case isReadOnly = "ro"
        }
    }

    private func nodes() throws -> [NodeInfo] {
        let text = try agent.tell("qmp", "query-named-block-nodes", #"{"flat": true}"#)
        return try JSONDecoder().decode([NodeInfo].self, from: Data(text.utf8))
    }

    private func wait(_ job: String, for status: String) throws {
        let deadline = Date(timeIntervalSinceNow: 30)
        while try !agent.tell("qmp", "query-jobs").contains(#""status" : "\#(status)""#),
            try !agent.tell("qmp", "query-jobs").contains(#""status": "\#(status)""#)
        {
            guard Date() < deadline else {
                let jobs = try agent.tell("qmp", "query-jobs")
                throw Tool.Failure(description: "\(job) is not \(status): \(jobs)")
            }
            usleep(10_000)
        }
    }

    @Test func anImageIsOpenedExportedAndClosed() throws {
        let path = try image("a")
        try qmp(
            "blockdev-add", #"{"driver": "file", "node-name": "a-file", "filename": "\#(path)"}"#)
        try qmp(
            "blockdev-add", #"{"driver": "qcow2", "node-name": "a", "file": "a-file"}"#)
        try export("a")
        try qemuIO("a", "write -P 5 1M 64k", "flush", "read -P 5 1M 64k", "read -P 0 0 1M")
        #expect(try nodes().map(\.name) == ["disk", "a-file", "a"])
        #expect(try nodes().map(\.driver) == ["qcow2", "file", "qcow2"])
        #expect(try nodes().last?.image.virtualSize == Self.lengthBytes)
        // QEMU sees that somebody has it open.
        #expect(try Tool.run(["qemu-img", "info", path]).status != 0)
        try fails("blockdev-del", #"{"node-name": "a"}"#, saying: "Node a is in use")
        try fails("blockdev-del", #"{"node-name": "a-file"}"#, saying: "is in use")
        try fails(
            "blockdev-add", #"{"driver": "file", "node-name": "a", "filename": "\#(path)"}"#,
            saying: "Duplicate nodes with node-name='a'")
        let events = try agent.begin("events", "--count", "1")
        defer { events.terminate() }
        try qmp("block-export-del", #"{"id": "e-a"}"#)
        try qmp("blockdev-del", #"{"node-name": "a"}"#)
        try qmp("blockdev-del", #"{"node-name": "a-file"}"#)
        try fails("blockdev-del", #"{"node-name": "a"}"#, saying: "Failed to find node")
        try Tool.check(["qemu-img", "check", "-q", path])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "read -P 5 1M 64k", path])
        #expect(try nodes().map(\.name) == ["disk"])
    }

    @Test func filtersStandOnEachOther() throws {
        let path = try image("a")
        try qmp(
            "object-add",
            #"{"qom-type": "throttle-group", "id": "slow", "limits": {"bps-total": 1048576}}"#)
        try qmp(
            "blockdev-add",
            #"{"driver": "throttle", "node-name": "t", "throttle-group": "slow", "file": "#
                + #"{"driver": "blkdebug", "node-name": "b", "image": {"driver": "qcow2", "#
                + #""node-name": "a", "file": {"driver": "file", "filename": "\#(path)"}}, "#
                + #""inject-error": [{"event": "write_aio", "errno": 28, "sector": 8, "#
                + #""once": true}]}}"#)
        #expect(try Set(nodes().map(\.name)) == ["disk", "t", "b", "a"])
        try fails("object-del", #"{"id": "slow"}"#, saying: "in use, can not be deleted")
        try fails("blockdev-del", #"{"node-name": "b"}"#, saying: "not owned by the monitor")
        try export("t")
        let started = Date()
        try qemuIO("t", "write -P 7 1M 256k", "write -P 7 1280k 256k", "read -P 7 1M 512k")
        #expect(Date().timeIntervalSince(started) > 0.3)
        let failed = try Tool.run([
            "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", agent.uri("t"),
        ])
        #expect(failed.output.contains("No space left"), "\(failed)")
        try qemuIO("t", "write -P 8 0 64k", "read -P 8 0 64k", "read -P 7 1M 512k")
        try qmp("block-export-del", #"{"id": "e-t"}"#)
        try qmp("blockdev-del", #"{"node-name": "t"}"#)
        try qmp("object-del", #"{"id": "slow"}"#)
        #expect(try nodes().map(\.name) == ["disk"])
        try Tool.check(["qemu-img", "check", "-q", path])
    }

    @Test func whatCopyOnReadStoresNeedsNoBackingAnyMore() throws {
        let base = directory.path("base.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", base, "4M"])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 3 0 4M", base])
        let path = try image("over", backing: base)
        try qmp(
            "blockdev-add",
            #"{"driver": "copy-on-read", "node-name": "cor", "file": {"driver": "qcow2", "file": "#
                + #"{"driver": "file", "filename": "\#(path)"}}}"#)
        try export("cor", writable: false)
        #expect(try agent.copy("cor", to: directory.path("copy")).allSatisfy { $0 == 3 })
        try qmp("block-export-del", #"{"id": "e-cor"}"#)
        try qmp("blockdev-del", #"{"node-name": "cor"}"#)
        try Tool.check(["qemu-img", "rebase", "-u", "-b", "", "-f", "qcow2", path])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "read -P 3 0 4M", path])
    }

    @Test func aMirrorCompletesOntoANode() throws {
        let path = try image("target")
        try add("target", path)
        try qmp(
            "blockdev-mirror",
            #"{"job-id": "m", "device": "disk", "target": "target", "sync": "full"}"#)
        try wait("m", for: "ready")
        try fails("blockdev-del", #"{"node-name": "target"}"#, saying: "is in use: job m")
        try qmp("job-complete", #"{"id": "m"}"#)
        let deadline = Date(timeIntervalSinceNow: 30)
        while try agent.tell("qmp", "query-jobs").contains(#""m""#), Date() < deadline {
            usleep(10_000)
        }
        // The node is the volume's image now.
        #expect(try nodes().map(\.name) == ["disk"])
        #expect(try nodes().first?.file == path)
        try qemuIO("disk", "write -P 9 0 64k", "read -P 1 64k 1M")
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        try Tool.check(["qemu-img", "check", "-q", path])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "read -P 9 0 64k", "-c", "read -P 1 64k 1M", path,
        ])
    }

    @Test func faultsOfATargetStopAMirrorUntilItIsResumed() throws {
        let path = try image("target")
        try qmp(
            "blockdev-add",
            #"{"driver": "blkdebug", "node-name": "bad", "image": {"driver": "qcow2", "file": "#
                + #"{"driver": "file", "filename": "\#(path)"}}, "#
                + #""inject-error": [{"event": "write_aio", "errno": 28, "once": true}]}"#)
        try qmp(
            "blockdev-mirror",
            #"{"job-id": "m", "device": "disk", "target": "bad", "sync": "full", "#
                + #""on-target-error": "enospc"}"#)
        try wait("m", for: "paused")
        #expect(try agent.tell("qmp", "query-block-jobs").contains("nospace"))
        try qmp("job-resume", #"{"id": "m"}"#)
        try wait("m", for: "ready")
        try qmp("block-job-cancel", #"{"device": "m"}"#)
        let deadline = Date(timeIntervalSinceNow: 30)
        while try agent.run(["qmp", "blockdev-del", #"{"node-name": "bad"}"#]).status != 0 {
            guard Date() < deadline else { throw Tool.Failure(description: "bad is in use") }
            usleep(10_000)
        }
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "read -P 1 0 4M", path])
    }

    @Test func aNodeBecomesTheTopOfAVolume() throws {
        let info = try nodes()
        let base = try #require(info.first).file
        let path = try image("overlay", backing: base)
        try add("overlay", path, #", "backing": null"#)
        try qmp("blockdev-snapshot", #"{"node": "disk", "overlay": "overlay"}"#)
        #expect(try nodes().map(\.name) == ["disk"])
        #expect(try nodes().first?.file == path)
        try qemuIO("disk", "write -P 4 0 64k", "read -P 1 64k 1M")
        agent.stop(SIGTERM)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "read -P 1 0 4M", base])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "read -P 4 0 64k", "-c", "read -P 1 64k 1M", path,
        ])
    }

    @Test func aVolumeStaysWhileANodeStandsOnIt() throws {
        try qmp(
            "blockdev-add",
            #"{"driver": "blkdebug", "node-name": "b", "image": "disk"}"#)
        let refused = try agent.run(["volume", "remove", "disk"])
        #expect(refused.status == 1 && refused.errors.contains("the nodes b stand on it"))
        try export("b")
        try qemuIO("b", "write -P 6 0 64k")
        try qemuIO("disk", "read -P 6 0 64k")
        let other = try agent.run(["volume", "create", "b", "--size", "1M"])
        #expect(other.status == 1 && other.errors.contains("Duplicate nodes"))
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    @Test func theExportsAreOfferedOverTCPToThisHostOnly() throws {
        let port = try Tool.check([
            "python3", "-c",
            "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); "
                + "print(s.getsockname()[1])",
        ]).trimmingCharacters(in: .whitespacesAndNewlines)
        func address(_ host: String) -> String {
            #"{"addr": {"type": "inet", "data": {"host": "\#(host)", "port": "\#(port)"}}}"#
        }
        try fails("nbd-server-start", address("0.0.0.0"), saying: "only this host may hear it")
        try fails("nbd-server-start", address("192.0.2.1"), saying: "only this host may hear it")
        try qmp("nbd-server-start", address("127.0.0.1"))
        let uri = "nbd://127.0.0.1:\(port)/disk"
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 2 0 64k", "-c", "read -P 2 0 64k", uri,
        ])
        #expect(try Tool.check(["nbdinfo", "--size", uri]).contains("\(Self.lengthBytes)"))
        // An export of another server as a node: of this very one.
        try qmp(
            "blockdev-add",
            #"{"driver": "nbd", "node-name": "far", "export": "disk", "read-only": true, "#
                + #""server": {"type": "inet", "host": "127.0.0.1", "port": "\#(port)"}}"#)
        try export("far", writable: false)
        try Tool.check([
            "qemu-io", "-r", "-f", "raw", "-c", "read -P 2 0 64k", "-c", "read -P 1 64k 1M",
            agent.uri("far"),
        ])
        try qmp("block-export-del", #"{"id": "e-far"}"#)
        try qmp("blockdev-del", #"{"node-name": "far"}"#)
        try qmp("nbd-server-stop", "{}")
        #expect(try Tool.run(["nbdinfo", "--size", uri]).status != 0)
    }

    @Test func theCommandLineOpensListsAndClosesNodes() throws {
        let path = try image("a")
        try agent.tell("node", "add", "a", path, "--format", "qcow2")
        #expect(try agent.tell("node", "list").contains(path))
        try agent.tell("export", "add", "a", "--name", "x")
        try qemuIO("x", "write -P 3 0 64k")
        try agent.tell("export", "remove", "x")
        try qmp("block_resize", #"{"node-name": "a", "size": 8388608}"#)
        try agent.tell("node", "remove", "a")
        #expect(try Tool.check(["qemu-img", "info", path]).contains("8 MiB"))
    }
}

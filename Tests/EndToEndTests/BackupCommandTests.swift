import Foundation
import TestSupport
import Testing

/// What the backup command says and returns for groups, failures and interruptions.
@Suite(.serialized) struct BackupCommandTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        for volume in ["a", "b"] {
            try agent.tell("volume", "create", volume, "--size", "8M")
            try Tool.check([
                "qemu-io", "-f", "raw", "-c", "write -P 7 0 5M", agent.uri(volume),
            ])
        }
        try agent.tell("repo", "init", "vault", directory.path("vault"))
    }

    private struct Point: Decodable {
        let id: String
        let volume: String
        let level: String
        let group: String?
        let groupMembers: [String]?
        let worstWriteDelay: Double?

        private enum CodingKeys: String, CodingKey {
            case id, volume, level, group
            case groupMembers = "group-members"
            case worstWriteDelay = "worst-write-delay-seconds"
        }
    }

    private func points() throws -> [Point] {
        try JSONDecoder().decode(
            [Point].self, from: Data(try agent.tell("--json", "points").utf8))
    }

    @Test func aGroupIsShownByPointsAndShowAndFoundByRebuildCatalog() throws {
        try agent.tell("backup", "a", "b", "--repo", "vault")
        let made = try points()
        #expect(made.map(\.volume).sorted() == ["a", "b"])
        let group = try #require(made[0].group)
        #expect(made.allSatisfy { $0.group == group && $0.worstWriteDelay != nil })
        #expect(made.allSatisfy { $0.groupMembers?.sorted() == made.map(\.id).sorted() })
        #expect(try agent.tell("points").contains("GROUP"))
        let shown = try agent.tell("show", "b@latest")
        #expect(shown.contains("group       \(group)") && shown.contains(made[0].id))
        #expect(shown.contains("frozen") && shown.contains("delay"))
        agent.stop(SIGTERM)
        let rebuilt = try Tool.check([
            AgentProcess.executable, "--state", directory.path("other"), "repo",
            "rebuild-catalog", directory.path("vault"),
        ])
        #expect(rebuilt.contains("2 points of 2 volumes, 1 groups"), "\(rebuilt)")
    }

    @Test func aFailedMemberGivesExitCode3AndNoGroup() throws {
        let socket = directory.path("nbd.sock")
        let server = Process()
        server.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        server.arguments = [
            "nbdkit", "--foreground", "--unix", socket, "--filter=error", "memory", "8M",
            "error-pread=EIO", "error-pread-rate=100%",
        ]
        server.standardError = FileHandle.nullDevice
        try server.run()
        // It loses SIGTERM now and then.
        defer { kill(server.processIdentifier, SIGKILL) }
        for _ in 0..<400 where access(socket, F_OK) != 0 { usleep(10_000) }
        try agent.tell("volume", "import", "bad", "nbd+unix:///?socket=\(socket)")
        try Tool.check([
            "/usr/bin/python3", "-c",
            "import nbd,sys; h=nbd.NBD(); h.connect_uri(sys.argv[1]); h.pwrite(bytes([5]*65536), 0)",
            agent.uri("bad"),
        ])
        let result = try agent.run(["backup", "a", "bad", "b", "--repo", "vault"])
        #expect(result.status == 3, "\(result.errors)")
        #expect(result.errors.contains("bad:") && result.errors.contains("1 item failed"))
        let made = try points()
        #expect(made.map(\.volume).sorted() == ["a", "b"])
        #expect(made.allSatisfy { $0.group != nil && $0.groupMembers == nil })
        #expect(try agent.tell("show", "a@latest").contains("not complete"))
        #expect(try agent.tell("points").contains("not complete"))
    }

    @Test func controlCUndoesABackup() throws {
        let command = try agent.begin("backup", "a", "b", "--repo", "vault", "--limit", "1M")
        for _ in 0..<400 {
            usleep(10_000)
            if try agent.tell("job", "list").contains("running") { break }
        }
        kill(command.processIdentifier, SIGINT)
        command.waitUntilExit()
        #expect(command.terminationStatus == 130)
        #expect(try points().isEmpty)
        let names = try FileManager.default.subpathsOfDirectory(atPath: directory.path("vault"))
        #expect(!names.contains { $0.hasSuffix(".tmp") }, "\(names)")
        #expect(try agent.backUp("a").reason == "first")
    }

    @Test func levelsAndCompressionComeThrough() throws {
        #expect(try agent.backUp("a", "--level", "differential").level == "full")
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", agent.uri("a")])
        let made = try agent.backUp("a", "--level", "differential", "--compress", "zstd")
        #expect(made.level == "differential" && made.storedBytes < 4096)
        let bytes = try agent.restore("a@latest", to: directory.path("restored"))
        #expect(bytes[0] == 9 && bytes[65536] == 7)
        let other = try agent.backUp("a", "--bitmap", "second")
        #expect(other.reason == "bitmap-missing" && other.level == "incremental")
    }
}

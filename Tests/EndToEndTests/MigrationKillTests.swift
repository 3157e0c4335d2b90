import Foundation
import TestSupport
import Testing

/// An agent is killed while it brings the catalog of an earlier version up to date.
@Suite(.serialized) struct MigrationKillTests {
    private static let roundCount = 8

    @Test func theNextStartEndsAKilledMigrationAndFindsAllAsItWas() throws {
        var random = Seed.generator("killed migration")
        let run = try MigrationRun()
        var unfinishedCount = 0
        for round in 0..<Self.roundCount {
            try run.restoreOldCatalog()
            try run.killDuringMigration(&random)
            if try run.migrationCount() < run.allMigrationCount { unfinishedCount += 1 }
            let agent = try AgentProcess(state: run.state)
            #expect(try run.description(by: agent) == run.expected, "round \(round)")
            #expect(try run.migrationCount() == run.allMigrationCount, "round \(round)")
            agent.stop(round % 2 == 0 ? SIGKILL : SIGTERM)
        }
        // Else they came too late for what they were to interrupt.
        #expect(unfinishedCount > 0)
        let agent = try AgentProcess(state: run.state)
        let point = try agent.backUp("disk", "--level", "incremental")
        #expect(try agent.restore(point.id, to: run.path("restored")) == run.content)
        agent.stop(SIGTERM)
    }
}

private final class MigrationRun {
    private let directory: TemporaryDirectory
    let content: [UInt8]
    /// What the agent said before of all that it knows.
    let expected: [String]
    let allMigrationCount: Int

    /// A raw volume, since only such an image is the same after it was opened: with each round it
    /// is that of the old catalog again.
    init() throws {
        directory = try TemporaryDirectory()
        let state = directory.path("state")
        let agent = try AgentProcess(state: state)
        try agent.tell("volume", "create", "disk", "--size", "8M", "--format", "raw")
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 5 1M 100k", agent.uri("disk")])
        _ = try agent.backUp("disk")
        try agent.tell("bitmap", "add", "disk", "early")
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 6 3M 200k", agent.uri("disk")])
        content = try agent.copy("disk", to: directory.path("copy"))
        expected = try Self.description(by: agent)
        agent.stop(SIGTERM)
        allMigrationCount = try Self.migrationCount(state)
        try FirstSchema.apply(to: state)
        try FileManager.default.copyItem(
            atPath: "\(state)/catalog.sqlite", toPath: directory.path("old.sqlite"))
    }

    var state: String { directory.path("state") }

    func path(_ name: String) -> String { directory.path(name) }

    func restoreOldCatalog() throws {
        for suffix in ["-wal", "-shm"] { unlink("\(state)/catalog.sqlite\(suffix)") }
        try writeFile("\(state)/catalog.sqlite", try readFile(directory.path("old.sqlite")))
    }

    /// Starts an agent and kills it soon after it has begun to change the catalog.
    func killDuringMigration(_ random: inout SplitMix64) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: AgentProcess.executable)
        process.arguments = ["--state", state, "agent"]
        process.standardInput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        var status = stat()
        while stat("\(state)/catalog.sqlite-wal", &status) != 0 || status.st_size == 0,
            process.isRunning
        { usleep(50) }
        usleep(UInt32.random(in: 0...4000, using: &random))
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    func description(by agent: AgentProcess) throws -> [String] {
        let content = try agent.copy("disk", to: directory.path("copy"))
        #expect(content == self.content)
        return try Self.description(by: agent)
    }

    func migrationCount() throws -> Int { try Self.migrationCount(state) }

    private static func description(by agent: AgentProcess) throws -> [String] {
        try [
            agent.tell("--json", "volume", "show", "disk"),
            agent.tell("--json", "bitmap", "list", "disk"),
            agent.tell("--json", "repo", "list"),
            agent.tell("--json", "points"),
        ]
    }

    /// With no agent running. A copy is looked at, so that it is the next agent that takes in what
    /// a killed one left in the journal.
    private static func migrationCount(_ state: String) throws -> Int {
        let script = """
            import os, shutil, sqlite3, sys, tempfile
            with tempfile.TemporaryDirectory() as copy:
                for name in ["catalog.sqlite", "catalog.sqlite-wal"]:
                    if os.path.exists(sys.argv[1] + "/" + name):
                        shutil.copy(sys.argv[1] + "/" + name, copy)
                catalog = sqlite3.connect(copy + "/catalog.sqlite")
                print(catalog.execute("SELECT count(*) FROM grdb_migrations").fetchone()[0])
            """
        let result = try Tool.run(["/usr/bin/python3", "-c", script, state])
        return Int(result.output.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0
    }
}

import Foundation
import TestSupport
import Testing

/// Jobs that users steer, that end together, and that the end of an agent interrupts.
@Suite(.serialized) struct JobCommandTests {
    private let directory: TemporaryDirectory
    private var agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        for volume in ["a", "b"] {
            try agent.tell("volume", "create", volume, "--size", "8M")
            try fill(volume, 7)
        }
        try agent.tell("repo", "init", "vault", directory.path("vault"))
    }

    private func fill(_ volume: String, _ byte: Int) throws {
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P \(byte) 0 8M", "-c", "flush",
            agent.uri(volume),
        ])
    }

    private struct Job: Decodable {
        let device: String
        let status: String
        let speed: UInt64
        let error: String?
        let ioStatus: String

        private enum CodingKeys: String, CodingKey {
            case device, status, speed, error
            case ioStatus = "io-status"
        }
    }

    private func job(_ id: String) throws -> Job? {
        let text = try agent.tell("qmp", "query-block-jobs")
        return try JSONDecoder().decode([Job].self, from: Data(text.utf8))
            .first { $0.device == id }
    }

    private func wait(_ id: String, for status: String) throws {
        let deadline = Date(timeIntervalSinceNow: 30)
        while try job(id)?.status != status {
            guard Date() < deadline else {
                throw Tool.Failure(description: "\(id) is not \(status)")
            }
            usleep(10_000)
        }
    }

    private func points() throws -> [String] {
        struct Point: Decodable { let id: String }
        let text = try agent.tell("--json", "points")
        return try JSONDecoder().decode([Point].self, from: Data(text.utf8)).map(\.id)
    }

    /// Starts a backup over the control socket.
    private func begin(_ volume: String, _ id: String, _ more: String = "") throws {
        try agent.tell(
            "qmp", "volume-backup",
            #"{"volumes": ["\#(volume)"], "repository": "vault", "job-id": "\#(id)", "#
                + #""auto-dismiss": false\#(more)}"#)
    }

    @Test func aBackupIsPausedSlowedAndWaitedFor() throws {
        try begin("a", "nightly", #", "speed": 1"#)
        try agent.tell("job", "pause", "nightly")
        try wait("nightly", for: "paused")
        let refused = try agent.run(["job", "cancel", "nightly"])
        #expect(refused.status == 1 && refused.errors.contains("currently paused"))
        let speed = try agent.tell("job", "set-speed", "nightly", "1G")
        #expect(try job("nightly")?.speed == 1 << 30, "\(speed)")
        #expect(try agent.tell("job", "list").contains("paused"))
        try agent.tell("job", "resume", "nightly")
        #expect(try agent.run(["job", "wait", "nightly"]).status == 0)
        #expect(try points().count == 1)
        try agent.tell("job", "dismiss", "nightly")
        let gone = try agent.run(["job", "pause", "nightly"])
        #expect(gone.status == 1 && gone.errors.contains("Job not found"))
    }

    @Test func pointsThatWaitArePublishedOrUndone() throws {
        try begin("a", "one", #", "auto-finalize": false"#)
        try wait("one", for: "pending")
        #expect(try points().isEmpty)
        try agent.tell("job", "finalize", "one")
        #expect(try job("one")?.status == "concluded")
        #expect(try points().count == 1)
        #expect(try agent.run(["job", "wait", "one"]).status == 0)

        try fill("a", 8)
        try begin("a", "two", #", "auto-finalize": false"#)
        try wait("two", for: "pending")
        try agent.tell("job", "cancel", "two")
        #expect(try job("two")?.status == "concluded")
        #expect(try points().count == 1)
        // The bitmap has everything that the one that was given up had.
        let made = try agent.backUp("a")
        #expect(made.level == "incremental" && made.reason == "bitmap")
        #expect(made.dirtyBytes == 8 << 20)
        let content = try agent.restore(made.id, to: directory.path("restored"))
        #expect(content.allSatisfy { $0 == 8 })
    }

    private func transact(_ mode: String, _ second: String) throws -> ToolResult {
        func backup(_ volume: String, _ more: String) -> String {
            #"{"type": "volume-backup", "data": {"volumes": ["\#(volume)"], "#
                + #""repository": "vault", "job-id": "job-\#(volume)", "#
                + #""auto-dismiss": false\#(more)}}"#
        }
        return try agent.run([
            "qmp", "transaction",
            #"{"actions": [\#(backup("a", "")), \#(backup("b", second))], "#
                + #""properties": {"completion-mode": "\#(mode)"}}"#,
        ])
    }

    @Test func groupedBackupsSucceedTogether() throws {
        #expect(try transact("grouped", "").status == 0)
        try wait("job-a", for: "concluded")
        try wait("job-b", for: "concluded")
        #expect(try points().count == 2)
        #expect(try job("job-a")?.error == nil && job("job-b")?.error == nil)
    }

    @Test func oneGroupedBackupThatIsGivenUpTakesTheOtherWithIt() throws {
        #expect(try transact("grouped", #", "speed": 1"#).status == 0)
        try wait("job-a", for: "waiting")
        #expect(try points().isEmpty)
        try agent.tell("job", "cancel", "job-b")
        try wait("job-a", for: "concluded")
        try wait("job-b", for: "concluded")
        #expect(try points().isEmpty)
        #expect(try job("job-a")?.error?.contains("cancelled") == true)
        for volume in ["a", "b"] {
            try agent.tell("job", "dismiss", "job-\(volume)")
            let made = try agent.backUp(volume)
            #expect(made.dirtyBytes == 8 << 20)
        }
    }

    @Test func whatCannotBePlannedHasTheTransactionFail() throws {
        let refused = try transact("individual", #", "level": "incremental""#)
        #expect(refused.status == 1 && refused.errors.contains("no increment is possible"))
        #expect(try job("job-a") == nil && job("job-b") == nil)
        #expect(try points().isEmpty)
        try agent.tell("backup", "a", "b", "--repo", "vault")
    }

    @Test mutating func anInterruptedBackupIsShownUntilItIsDismissed() throws {
        try begin("a", "nightly", #", "speed": 1"#)
        try wait("nightly", for: "running")
        try restart(SIGKILL)
        let left = try #require(try job("nightly"))
        #expect(left.status == "concluded")
        #expect(left.error?.contains("interrupted by the end of the agent") == true)
        let waited = try agent.run(["job", "wait", "nightly"])
        #expect(waited.status == 1 && waited.errors.contains("interrupted"))
        try agent.tell("job", "dismiss", "nightly")
        #expect(try points().isEmpty)
        #expect(try agent.backUp("a").dirtyBytes == 8 << 20)
        // It is shown once.
        try restart(SIGTERM)
        #expect(try job("nightly") == nil)
    }

    @Test mutating func anInterruptedStreamGoesOnWithTheSpeedItHad() throws {
        let point = try agent.backUp("a").id
        try agent.tell("restore", point, "--as-volume", "now", "--instant", "--limit", "1K")
        let text = try agent.tell("qmp", "query-block-jobs")
        let id = try #require(
            try JSONDecoder().decode([Job].self, from: Data(text.utf8)).first?.device)
        for (signal, speed) in [(SIGKILL, 1024), (SIGTERM, 2048)] as [(Int32, UInt64)] {
            try agent.tell("job", "set-speed", id, "\(speed)")
            try restart(signal)
            try wait(id, for: "running")
            #expect(try job(id)?.speed == speed)
        }
        try agent.tell("job", "set-speed", id, "0")
        let deadline = Date(timeIntervalSinceNow: 30)
        while try job(id) != nil, Date() < deadline { usleep(10_000) }
        #expect(try agent.copy("now", to: directory.path("copy")).allSatisfy { $0 == 7 })
        #expect(try agent.tell("stream", "now").contains("0 B copied"))
    }

    /// A point that is damaged in the middle of a stream, and repaired.
    @Test func aStreamWaitsForItsPointOrSkipsWhatIsDamaged() throws {
        let point = try agent.backUp("a").id
        let vault = directory.path("vault")
        let folder = try #require(
            FileManager.default.contentsOfDirectory(atPath: vault).first { $0.hasPrefix("a.") })
        let image = "\(vault)/\(folder)/\(point).qcow2"
        for policy in ["stop", "ignore"] {
            try agent.tell(
                "qmp", "point-restore",
                #"{"point": "\#(point)", "as-volume": "\#(policy)", "instant": true, "#
                    + #""speed": 1024, "job-id": "job", "auto-dismiss": false, "#
                    + #""on-source-error": "\#(policy)"}"#)
            let healthy = try exchange([UInt8](repeating: 9, count: 4096), at: 7 << 20, in: image)
            try agent.tell("job", "set-speed", "job", "0")
            try wait("job", for: policy == "stop" ? "paused" : "concluded")
            #expect(try job("job")?.ioStatus == (policy == "stop" ? "failed" : "ok"))
            _ = try exchange(healthy, at: 7 << 20, in: image)
            if policy == "stop" {
                try agent.tell("job", "resume", "job")
                try wait("job", for: "concluded")
                #expect(try job("job")?.error == nil)
            } else {
                #expect(try job("job")?.error != nil)
                try agent.tell("stream", policy)
            }
            try agent.tell("job", "dismiss", "job")
            #expect(try agent.tell("stream", policy).contains("0 B copied"))
            let copy = directory.path("copy-\(policy)")
            #expect(try agent.copy(policy, to: copy).allSatisfy { $0 == 7 })
        }
    }

    /// Puts `bytes` into a file and returns what was there.
    private func exchange(_ bytes: [UInt8], at offset: UInt64, in path: String) throws -> [UInt8] {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: offset)
        let old = try file.read(upToCount: bytes.count) ?? Data()
        try file.seek(toOffset: offset)
        try file.write(contentsOf: Data(bytes))
        try file.close()
        return Array(old)
    }

    private mutating func restart(_ signal: Int32) throws {
        agent.stop(signal)
        agent = try AgentProcess(state: directory.path("state"))
    }
}

import Foundation
import TestSupport
import Testing

/// Things that are done to several volumes at one instant while a client writes to all of them.
@Suite(.serialized) struct TransactionTests {
    private static let volumes = ["a", "b", "c"]
    private static let lengthBytes = 16 << 20

    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        for volume in Self.volumes {
            try agent.tell(
                "volume", "create", volume, "--size", "16M", "--format", "raw", "--path",
                directory.path("\(volume).raw"))
        }
    }

    private func startClient() throws -> CountingClient {
        try CountingClient(
            uris: Self.volumes.map { agent.uri($0) }, log: directory.path("count"))
    }

    private func transact(_ actions: [String]) throws -> ToolResult {
        try agent.run([
            "qmp", "transaction", #"{"actions": [\#(actions.joined(separator: ", "))]}"#,
        ])
    }

    private func action(_ type: String, _ data: String) -> String {
        #"{"type": "\#(type)", "data": {\#(data)}}"#
    }

    private func complete(_ volume: String) -> String {
        action("job-complete", #""id": "\#(volume)""#)
    }

    private func mirrorAll(_ options: String...) throws {
        for volume in Self.volumes {
            let result = try agent.run(
                ["mirror", volume, directory.path("\(volume).new"), "--sync", "full", "--wait"]
                    + options)
            try #require(result.status == 0, "\(result.errors)")
        }
    }

    private struct Job: Decodable {
        let status: String
        let error: String?
    }

    private func job(_ id: String) throws -> Job {
        try JSONDecoder().decode(Job.self, from: Data(agent.tell("--json", "job", "show", id).utf8))
    }

    private func top(_ volume: String) throws -> String {
        struct Volume: Decodable { let path: String }
        let text = try agent.tell("--json", "volume", "show", volume)
        return try JSONDecoder().decode(Volume.self, from: Data(text.utf8)).path
    }

    /// The number at the start of an image that nobody writes.
    private func number(_ path: String, _ format: String = "raw") throws -> UInt64 {
        let flat = directory.path("flat")
        defer { unlink(flat) }
        try Tool.check(["qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, flat])
        return try readFile(flat).withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    }

    /// Whether those are numbers of one instant.
    private func expectInstant(
        _ numbers: [UInt64], upTo last: UInt64, _ location: SourceLocation = #_sourceLocation
    ) {
        #expect(numbers == numbers.sorted(by: >), "\(numbers)", sourceLocation: location)
        #expect(numbers[0] - numbers[2] <= 1, "\(numbers)", sourceLocation: location)
        #expect(numbers[0] > 0 && numbers[0] < last, "\(numbers)", sourceLocation: location)
    }

    @Test(arguments: ["background", "write-blocking"])
    func threeVolumesPivotAtOneInstant(mode: String) throws {
        let client = try startClient()
        try mirrorAll("--copy-mode", mode)
        let result = try transact(Self.volumes.map(complete))
        #expect(result.status == 0, "\(result.errors)")
        for volume in Self.volumes {
            #expect(try agent.run(["job", "wait", volume]).status == 0)
            #expect(try top(volume) == directory.path("\(volume).new"))
        }
        usleep(50_000)
        let last = try client.finish()
        expectInstant(
            try Self.volumes.map { try number(directory.path("\($0).raw")) }, upTo: last)
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        for volume in Self.volumes { #expect(try number(directory.path("\(volume).new")) == last) }
    }

    /// What the test above would see if they did not.
    @Test func volumesThatPivotOneAfterTheOtherAreNoticed() throws {
        let client = try startClient()
        try mirrorAll()
        for volume in Self.volumes {
            try agent.tell("job", "complete", volume)
            #expect(try agent.run(["job", "wait", volume]).status == 0)
        }
        _ = try client.finish()
        let numbers = try Self.volumes.map { try number(directory.path("\($0).raw")) }
        #expect(numbers[0] < numbers[2], "\(numbers)")
        agent.stop(SIGTERM)
    }

    /// The target of the third is over a base that is not there yet: this shows only when all else is
    /// prepared, and the first two have drained.
    @Test func noVolumePivotsIfTheThirdCannot() throws {
        let (base, third) = (directory.path("base.raw"), directory.path("c.new"))
        try Tool.check([
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, third,
            "\(Self.lengthBytes)",
        ])
        try agent.tell("bitmap", "add", "c", "changes")
        let client = try startClient()
        for volume in ["a", "b"] {
            try agent.tell(
                "mirror", volume, directory.path("\(volume).new"), "--sync", "full", "--wait")
        }
        try agent.tell(
            "mirror", "c", third, "--existing", "--format", "qcow2", "--sync", "bitmap",
            "--bitmap", "changes", "--bitmap-mode", "never", "--wait")
        let result = try transact(Self.volumes.map(complete))
        #expect(result.status == 1 && result.errors.contains(base), "\(result.errors)")
        for volume in Self.volumes {
            #expect(try top(volume) == directory.path("\(volume).raw"))
            #expect(try job(volume).status == "ready")
        }
        // With it, all can: the volume was empty when its bitmap was added.
        _ = FileManager.default.createFile(atPath: base, contents: nil)
        truncate(base, off_t(Self.lengthBytes))
        let second = try transact(Self.volumes.map(complete))
        #expect(second.status == 0, "\(second.errors)")
        for volume in Self.volumes {
            #expect(try agent.run(["job", "wait", volume]).status == 0)
            #expect(try top(volume) == directory.path("\(volume).new"))
        }
        usleep(50_000)
        let last = try client.finish()
        expectInstant(
            try Self.volumes.map { try number(directory.path("\($0).raw")) }, upTo: last)
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        #expect(try number(third, "qcow2") == last)
    }

    @Test func mirrorsThatEndTogetherLeaveCopiesOfOneInstant() throws {
        let client = try startClient()
        try mirrorAll()
        let result = try transact(
            Self.volumes.map { action("block-job-cancel", #""device": "\#($0)""#) })
        #expect(result.status == 0, "\(result.errors)")
        for volume in Self.volumes {
            #expect(try agent.run(["job", "wait", volume]).status == 0)
            #expect(try top(volume) == directory.path("\(volume).raw"))
        }
        usleep(50_000)
        let last = try client.finish()
        expectInstant(
            try Self.volumes.map { try number(directory.path("\($0).new")) }, upTo: last)
        agent.stop(SIGTERM)
    }

    @Test(arguments: ["individual", "grouped"])
    func imagesOfThreeVolumesShowOneInstant(completion: String) throws {
        let client = try startClient()
        let backups = Self.volumes.map { volume in
            action(
                "drive-backup",
                #""device": "\#(volume)", "job-id": "\#(volume)", "sync": "full", "#
                    + #""format": "raw", "auto-dismiss": false, "#
                    + #""target": "\#(directory.path("\(volume).copy"))""#)
        }
        let result = try agent.run([
            "qmp", "transaction",
            #"{"actions": [\#(backups.joined(separator: ", "))], "#
                + #""properties": {"completion-mode": "\#(completion)"}}"#,
        ])
        #expect(result.status == 0, "\(result.errors)")
        for volume in Self.volumes {
            #expect(try agent.run(["job", "wait", volume]).status == 0)
        }
        usleep(50_000)
        let last = try client.finish()
        expectInstant(
            try Self.volumes.map { try number(directory.path("\($0).copy")) }, upTo: last)
        agent.stop(SIGTERM)
    }

    /// The first would succeed, but the last has no such target.
    @Test func noImageIsBegunIfOneCannotBe() throws {
        let result = try transact([
            action(
                "drive-backup",
                #""device": "a", "sync": "full", "target": "\#(directory.path("a.copy"))""#),
            action(
                "blockdev-backup", #""device": "b", "sync": "full", "target": "nowhere""#),
        ])
        #expect(result.status == 1 && result.errors.contains("nowhere"), "\(result.errors)")
        #expect(try agent.tell("qmp", "query-jobs") == "[]\n")
        // Nothing is at work on the first.
        try agent.tell("volume", "resize", "a", "17M")
    }

    /// A snapshot of one, a pivot of another, a backup and a new bitmap of the third.
    @Test func whatIsMixedHappensAtOneInstant() throws {
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        let client = try startClient()
        try agent.tell("mirror", "b", directory.path("b.new"), "--sync", "full", "--wait")
        let overlay = directory.path("a.qcow2")
        let result = try transact([
            action(
                "blockdev-snapshot-sync", #""device": "a", "snapshot-file": "\#(overlay)""#),
            complete("b"),
            action("block-dirty-bitmap-add", #""node": "c", "name": "since""#),
            action(
                "volume-backup",
                #""volumes": ["c"], "repository": "vault", "job-id": "backup", "#
                    + #""auto-dismiss": false"#),
        ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(try agent.run(["job", "wait", "b"]).status == 0)
        #expect(try agent.run(["job", "wait", "backup"]).status == 0)
        usleep(50_000)
        let last = try client.finish()
        #expect(try top("a") == overlay && top("b") == directory.path("b.new"))
        let point = try agent.restore("c@latest", to: directory.path("restored"))
        let backedUp = point.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        expectInstant(
            [
                try number(directory.path("a.raw")), try number(directory.path("b.raw")), backedUp,
            ], upTo: last)
        #expect(try agent.tell("bitmap", "list", "c").contains("since"))
        agent.stop(SIGTERM)
    }

    /// What fails in the end, or is said to, leaves nothing of what comes before it.
    @Test(arguments: ["abort", "failure"])
    func nothingOfATransactionThatFailsIsLeft(way: String) throws {
        try agent.tell("mirror", "b", directory.path("b.new"), "--sync", "full", "--wait")
        let overlay = directory.path("a.qcow2")
        let result = try transact([
            action(
                "blockdev-snapshot-sync", #""device": "a", "snapshot-file": "\#(overlay)""#),
            complete("b"),
            action(
                "drive-mirror",
                #""device": "c", "target": "\#(directory.path("c.new"))", "sync": "full""#),
            action("block-dirty-bitmap-add", #""node": "c", "name": "since""#),
            way == "abort"
                ? action("abort", "")
                : action("block-dirty-bitmap-remove", #""node": "c", "name": "none""#),
        ])
        #expect(result.status == 1)
        #expect(
            result.errors.contains(way == "abort" ? "using Abort action" : "not found"),
            "\(result.errors)")
        for volume in Self.volumes {
            #expect(try top(volume) == directory.path("\(volume).raw"))
        }
        #expect(!FileManager.default.fileExists(atPath: overlay))
        #expect(try job("b").status == "ready")
        #expect(try agent.run(["job", "show", "c"]).status == 1)
        #expect(try !agent.tell("bitmap", "list", "c").contains("since"))
        try agent.tell("job", "complete", "b")
        #expect(try agent.run(["job", "wait", "b"]).status == 0)
        #expect(try top("b") == directory.path("b.new"))
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    @Test func jobsThatCannotEndTogetherAreRefused() throws {
        func refusal(_ actions: String...) throws -> String {
            let result = try transact(actions)
            #expect(result.status == 1)
            return result.errors
        }
        #expect(try refusal(complete("a")).contains("Job not found"))
        #expect(
            try refusal(action("block-job-cancel", #""device": "a""#)).contains(
                "Block job 'a' not found"))
        try agent.tell("mirror", "a", directory.path("a.new"), "--sync", "full", "--wait")
        try agent.tell("job", "pause", "a")
        while try job("a").status != "standby" { usleep(10_000) }
        #expect(try refusal(complete("a")).contains("cannot end in a transaction"))
        try agent.tell("job", "resume", "a")
        #expect(try refusal(complete("a"), complete("a")).contains("ending already"))
        let grouped = try agent.run([
            "qmp", "transaction",
            #"{"actions": [\#(complete("a"))], "properties": {"completion-mode": "grouped"}}"#,
        ])
        #expect(grouped.status == 1 && grouped.errors.contains("completion-mode"))
        // And by force, once all else has happened.
        let result = try transact([
            action("block-dirty-bitmap-add", #""node": "a", "name": "since""#),
            action("job-cancel", #""id": "a""#),
        ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(try agent.run(["job", "wait", "a"]).status != 0)
        #expect(try top("a") == directory.path("a.raw"))
        agent.stop(SIGTERM)
    }

    // MARK: Other images

    @Test func otherImagesTakeOverAndBitmapsAreBelievedIfThatIsSaid() throws {
        try agent.tell("bitmap", "add", "a", "changes")
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", "-c", "flush", agent.uri("a"),
        ])
        for (number, isSame) in [(0, true), (1, false)] {
            let path = directory.path("other\(number).qcow2")
            try Tool.check([
                "qemu-img", "convert", "-U", "-O", "qcow2", "-f", number == 0 ? "raw" : "qcow2",
                try top("a"), path,
            ])
            let same = isSame ? #", "same-content": true"# : ""
            try agent.tell(
                "qmp", "drive-reopen", #"{"device": "a", "new-image-file": "\#(path)"\#(same)}"#)
            #expect(try top("a") == path)
            let bitmap = try agent.tell("bitmap", "list", "a")
            #expect(bitmap.contains("inconsistent") == !isSame, "\(bitmap)")
            try Tool.check(["qemu-io", "-f", "raw", "-c", "read -P 7 1M 1M", agent.uri("a")])
        }
        // The old one is others' again.
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", directory.path("a.raw"),
        ])
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    @Test func imagesThatCannotBeOpenedLeaveTheOldOnesServing() throws {
        let client = try startClient()
        let broken = directory.path("broken.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", broken, "16M"])
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: broken))
        try file.seek(toOffset: 40)
        try file.write(contentsOf: Data([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]))
        try file.close()
        let short = directory.path("short.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", short, "8M"])
        let good = directory.path("good.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", good, "16M"])
        for path in [broken, short, directory.path("none.qcow2"), directory.path("b.raw")] {
            // Two at once: the first could, the second cannot.
            let result = try transact([
                action("drive-reopen", #""device": "a", "new-image-file": "\#(good)""#),
                action("drive-reopen", #""device": "c", "new-image-file": "\#(path)""#),
            ])
            #expect(result.status == 1, "\(path)")
            for volume in Self.volumes {
                #expect(try top(volume) == directory.path("\(volume).raw"))
            }
        }
        let last = try client.finish()
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        for volume in Self.volumes { #expect(try number(directory.path("\(volume).raw")) == last) }
        // It was let go.
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", good])
    }
}

import Foundation
import TestSupport
import Testing

/// QEMU's backups: to nodes and images, with bitmaps, and as fleeces that a client pulls from.
@Suite(.serialized) struct TargetBackupTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "4M")
        try qemuIO("write -P 1 0 4M")
    }

    private func qemuIO(_ commands: String..., export: String = "disk") throws {
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

    /// Waits until the job is gone; throws if it stays.
    private func waitForEnd(_ job: String) throws {
        let deadline = Date(timeIntervalSinceNow: 30)
        while try agent.tell("qmp", "query-jobs").contains("\"\(job)\"") {
            guard Date() < deadline else {
                throw Tool.Failure(description: try agent.tell("qmp", "query-jobs"))
            }
            usleep(10_000)
        }
    }

    private func target(
        _ name: String, backing: String? = nil, more: String = ""
    ) throws -> String {
        let path = directory.path("\(name).qcow2")
        var command = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if let backing { command += ["-b", backing, "-F", "qcow2"] }
        try Tool.check(command + [path, "4M"])
        try qmp(
            "blockdev-add",
            #"{"driver": "qcow2", "node-name": "\#(name)", "file": {"driver": "file", "#
                + #""filename": "\#(path)"}\#(more)}"#)
        return path
    }

    private func backUp(_ target: String, _ sync: String, _ more: String = "") throws {
        try qmp(
            "blockdev-backup",
            #"{"job-id": "j", "device": "disk", "target": "\#(target)", "sync": "\#(sync)"\#(more)}"#
        )
    }

    private func isEqual(_ image: String, _ reference: String) throws -> Bool {
        try Tool.run([
            "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, reference,
        ]).status == 0
    }

    private func count(_ bitmap: String) throws -> Int {
        struct Bitmap: Decodable { let name: String, count: Int }
        let text = try agent.tell("qmp", "query-dirty-bitmaps", #"{"node": "disk"}"#)
        return try JSONDecoder().decode([Bitmap].self, from: Data(text.utf8))
            .first { $0.name == bitmap }?.count ?? -1
    }

    @Test func aFullAndItsIncrementsEqualTheDisk() throws {
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        let full = try target("full")
        try backUp("full", "full")
        try waitForEnd("j")
        try qmp("blockdev-del", #"{"node-name": "full"}"#)
        var parent = full
        for round in 1...3 {
            try qemuIO(
                "write -P \(round + 1) \(round)M 100k", "write -z \(round * 128)k 64k",
                "discard 3M 64k")
            _ = try agent.copy("disk", to: directory.path("reference"))
            let path = try target("inc\(round)", backing: parent)
            try backUp("inc\(round)", "incremental", #", "bitmap": "b""#)
            try waitForEnd("j")
            #expect(try count("b") == 0)
            try qmp("blockdev-del", #"{"node-name": "inc\#(round)"}"#)
            #expect(try isEqual(path, directory.path("reference")), "round \(round)")
            try Tool.check(["qemu-img", "check", "-q", path])
            parent = path
        }
    }

    @Test func driveBackupMakesItsImage() throws {
        let path = directory.path("made.qcow2")
        _ = try agent.copy("disk", to: directory.path("reference"))
        try qmp(
            "drive-backup",
            #"{"job-id": "j", "device": "disk", "target": "\#(path)", "sync": "full", "#
                + #""format": "qcow2", "compress": true}"#)
        try waitForEnd("j")
        #expect(try isEqual(path, directory.path("reference")))
        try Tool.check(["qemu-img", "check", "-q", path])
        let raw = directory.path("made.raw")
        try qmp(
            "drive-backup",
            #"{"job-id": "j", "device": "disk", "target": "\#(raw)", "sync": "top", "#
                + #""format": "raw", "speed": 8388608}"#)
        try waitForEnd("j")
        #expect(try readFile(raw) == readFile(directory.path("reference")))
    }

    /// What is written after the instant is not in the backup, and is in the bitmap.
    @Test func aBackupShowsTheInstantOfItsStart() throws {
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        _ = try agent.copy("disk", to: directory.path("reference"))
        let path = try target("full")
        try backUp(
            "full", "full", #", "bitmap": "b", "bitmap-mode": "on-success", "speed": 1048576"#)
        try qemuIO("write -P 9 3M 128k", "write -P 9 0 64k")
        try qmp("block-job-set-speed", #"{"device": "j", "speed": 0}"#)
        try waitForEnd("j")
        #expect(try count("b") == 192 << 10)
        try qmp("blockdev-del", #"{"node-name": "full"}"#)
        #expect(try isEqual(path, directory.path("reference")))
    }

    /// The top is the one at the instant, whatever is over it by the time that it is copied.
    @Test func aBackupOfTheTopBesideASnapshotCopiesThatTop() throws {
        let copy = directory.path("top.qcow2")
        try agent.tell("volume", "snapshot", "disk", directory.path("first.qcow2"))
        try qemuIO("write -P 8 1M 192k")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", copy, "4M"])
        try qmp(
            "transaction",
            #"{"actions": [{"type": "drive-backup", "data": {"job-id": "j", "device": "disk", "#
                + #""target": "\#(copy)", "sync": "top", "format": "qcow2", "mode": "existing"}}, "#
                + #"{"type": "blockdev-snapshot-sync", "data": {"device": "disk", "#
                + #""snapshot-file": "\#(directory.path("over.qcow2"))"}}]}"#)
        try qemuIO("write -P 9 0 64k", "write -P 9 1M 64k")
        try waitForEnd("j")
        let found = try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "read -P 0 0 1M", "-c", "read -P 8 1M 192k", copy,
        ])
        #expect(!found.contains("failed"), "\(found)")
    }

    /// A bitmap loses nothing until all members of its transaction have come to their end.
    @Test func aGroupedBackupWhoseOtherMemberFailsKeepsItsBitmap() throws {
        try agent.tell("volume", "create", "other", "--size", "4M")
        for volume in ["disk", "other"] {
            try agent.tell("bitmap", "add", volume, "b", "--granularity", "64K")
        }
        try qemuIO("write -P 2 0 256k")
        try qemuIO("write -P 2 0 256k", export: "other")
        _ = try target("t")
        let image = directory.path("bad.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"])
        // It takes everything, and cannot be flushed.
        try qmp(
            "blockdev-add",
            #"{"driver": "blkdebug", "node-name": "bad", "inject-error": "#
                + #"[{"event": "none", "iotype": "flush"}], "image": {"driver": "qcow2", "#
                + #""file": {"driver": "file", "filename": "\#(image)"}}}"#)
        func member(_ volume: String, _ target: String) -> String {
            #"{"type": "blockdev-backup", "data": {"job-id": "\#(target)", "device": "\#(volume)", "#
                + #""target": "\#(target)", "sync": "incremental", "bitmap": "b"}}"#
        }
        for members in [
            [member("disk", "t"), member("other", "bad")],
            [member("other", "bad"), member("disk", "t")],
        ] {
            try qmp(
                "transaction",
                #"{"properties": {"completion-mode": "grouped"}, "actions": "#
                    + "[\(members.joined(separator: ", "))]}")
            try waitForEnd("t")
            try waitForEnd("bad")
            #expect(try count("b") == 256 << 10)
        }
    }

    enum Failure: String, CaseIterable { case none, intermediate, pending }

    /// The predicted count of the bitmap, whatever the backup came to.
    @Test(arguments: ["on-success", "always", "never"], Failure.allCases)
    func theBitmapFollowsItsMode(mode: String, failure: Failure) throws {
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        try qemuIO("write -P 2 0 256k", "write -P 2 2M 256k")
        let image = directory.path("t.qcow2")
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"])
        let rule = failure == .intermediate ? #"{"event": "none", "sector": 4096}"# : ""
        try qmp(
            "blockdev-add",
            #"{"driver": "blkdebug", "node-name": "t", "inject-error": [\#(rule)], "image": "#
                + #"{"driver": "qcow2", "file": {"driver": "file", "filename": "\#(image)"}}}"#)
        try backUp(
            "t", "bitmap",
            #", "bitmap": "b", "bitmap-mode": "\#(mode)", "auto-finalize": false, "#
                + #""auto-dismiss": false, "speed": 65536"#)
        // Before and after the copy is there.
        try fails(
            "block-dirty-bitmap-clear", #"{"node": "disk", "name": "b"}"#, saying: "uses it")
        try qemuIO("write -P 3 3M 128k")
        try qmp("block-job-set-speed", #"{"device": "j", "speed": 0}"#)
        let states = failure == .intermediate ? ["concluded"] : ["pending"]
        let deadline = Date(timeIntervalSinceNow: 30)
        while try !states.contains(where: { try agent.tell("job", "list").contains($0) }) {
            guard Date() < deadline else {
                throw Tool.Failure(description: try agent.tell("job", "list"))
            }
            usleep(10_000)
        }
        switch failure {
        case .none: try qmp("job-finalize", #"{"id": "j"}"#)
        case .pending: try qmp("job-cancel", #"{"id": "j"}"#)
        case .intermediate: break
        }
        usleep(200_000)
        let (old, new) = (512 << 10, 128 << 10)
        let count = try count("b")
        switch (mode, failure) {
        case ("never", _), ("on-success", .intermediate), ("on-success", .pending):
            #expect(count == old + new)
        case (_, .none), ("always", .pending):
            // All had been copied when it was given up.
            #expect(count == new)
        default:
            // The part that failed, or was not tried, is still there.
            #expect(count >= new + (64 << 10) && count <= new + old)
        }
        try qmp("job-dismiss", #"{"id": "j"}"#)
        try qmp("blockdev-del", #"{"node-name": "t"}"#)
    }

    /// As virtnbdbackup and libvirt do it: the client pulls what the bitmap says, as of the instant.
    @Test func aFleeceShowsTheInstantWithItsBitmap() throws {
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        try qemuIO("write -P 2 1M 128k")
        try qmp("block-dirty-bitmap-disable", #"{"node": "disk", "name": "b"}"#)
        let before = try agent.copy("disk", to: directory.path("before"))
        _ = try target("fleece", more: #", "backing": "disk""#)
        try backUp("fleece", "none")
        try qmp(
            "block-export-add",
            #"{"type": "nbd", "id": "e", "node-name": "fleece", "name": "pull", "#
                + #""bitmaps": [{"node": "disk", "name": "b"}]}"#)
        for round in 0..<8 {
            try qemuIO(
                "write -P \(round + 3) \(round * 400)k 100k", "write -z \(round * 512)k 10k",
                "discard \(round * 300)k 64k")
            let seen = try agent.copy("pull", to: directory.path("seen"))
            #expect(seen == before, "round \(round)")
        }
        let map = try Tool.check(["nbdinfo", "--map=qemu:dirty-bitmap:b", agent.uri("pull")])
        let dirty = map.split(separator: "\n").filter { $0.contains("dirty") }
        #expect(dirty.count == 1 && dirty[0].contains("1048576") && dirty[0].contains("131072"))
        try fails("blockdev-del", #"{"node-name": "fleece"}"#, saying: "in use")
        let refused = try agent.run(["volume", "remove", "disk"])
        #expect(refused.status == 1)
        try qmp("block-export-del", #"{"id": "e", "mode": "hard"}"#)
        try qmp("block-job-cancel", #"{"device": "j"}"#)
        try waitForEnd("j")
        try qmp("blockdev-del", #"{"node-name": "fleece"}"#)
        // What was overwritten is in the image: the rest never was.
        try Tool.check(["qemu-img", "check", "-q", directory.path("fleece.qcow2")])
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    /// The same by the filters that QEMU has for it since 7.0.
    @Test func aCopyBeforeWriteNodeKeepsWhatGuestsOverwrite() throws {
        let before = try agent.copy("disk", to: directory.path("before"))
        _ = try target("scratch")
        try qmp(
            "blockdev-add",
            #"{"driver": "copy-before-write", "node-name": "cbw", "file": "disk", "#
                + #""target": "scratch"}"#)
        try qmp(
            "blockdev-add",
            #"{"driver": "snapshot-access", "node-name": "snap", "file": "cbw"}"#)
        try qmp(
            "block-export-add", #"{"type": "nbd", "id": "e", "node-name": "snap", "name": "pull"}"#)
        try qemuIO("write -P 5 0 1M", "write -z 2M 300k", "write -P 6 4190208 4k")
        #expect(try agent.copy("pull", to: directory.path("seen")) == before)
        #expect(try agent.copy("disk", to: directory.path("now")) != before)
        try qmp("block-export-del", #"{"id": "e"}"#)
        try qmp("blockdev-del", #"{"node-name": "snap"}"#)
        try qmp("blockdev-del", #"{"node-name": "cbw"}"#)
        try qmp("blockdev-del", #"{"node-name": "scratch"}"#)
        try qemuIO("write -P 7 0 1M")
        try agent.tell("volume", "remove", "disk")
    }

    @Test func aBackupThatIsKilledLosesNothing() throws {
        try agent.tell("bitmap", "add", "disk", "b", "--granularity", "64K")
        // More than the one piece that passes before the speed counts.
        try qemuIO("write -P 2 0 3M")
        _ = try target("t")
        try backUp(
            "t", "bitmap",
            #", "bitmap": "b", "bitmap-mode": "on-success", "speed": 65536"#)
        try qemuIO("write -P 3 3M 128k")
        #expect(try agent.tell("qmp", "query-jobs").contains("\"j\""))
        agent.stop(SIGKILL)
        let again = try AgentProcess(state: agent.state)
        let text = try again.tell("qmp", "query-dirty-bitmaps", #"{"node": "disk"}"#)
        struct Bitmap: Decodable { let count: Int, busy: Bool }
        let bitmap = try #require(
            JSONDecoder().decode([Bitmap].self, from: Data(text.utf8)).first)
        // What was announced counts too.
        #expect(bitmap.count >= 3200 << 10, "\(text)")
        #expect(!bitmap.busy)
        again.stop(SIGTERM)
        #expect(again.exitStatus == 0)
    }

    @Test func whatMakesNoSenseIsRefusedInQEMUsWords() throws {
        try agent.tell("bitmap", "add", "disk", "b")
        _ = try target("t")
        for (options, text) in [
            (#""sync": "incremental""#, "must provide a valid bitmap name for 'incremental'"),
            (#""sync": "bitmap", "bitmap": "b""#, "Bitmap sync mode must be given"),
            (#""sync": "none", "bitmap": "b", "bitmap-mode": "always""#, "meaningful"),
            (#""sync": "full", "bitmap": "b", "bitmap-mode": "never""#, "no meaningful effect"),
            (#""sync": "full", "bitmap-mode": "never""#, "without a bitmap"),
            (#""sync": "bitmap", "bitmap": "x", "bitmap-mode": "never""#, "could not be found"),
            (#""sync": "full", "speed": -1"#, "non-negative"),
        ] {
            try fails(
                "blockdev-backup", #"{"device": "disk", "target": "t", \#(options)}"#,
                saying: text)
        }
        try fails(
            "blockdev-backup", #"{"device": "disk", "target": "x", "sync": "full"}"#,
            saying: "Cannot find device='x' nor node-name='x'")
        try fails(
            "blockdev-backup", #"{"device": "disk", "target": "disk", "sync": "full"}"#,
            saying: "cannot be the same")
        try qmp("blockdev-del", #"{"node-name": "t"}"#)
    }
}

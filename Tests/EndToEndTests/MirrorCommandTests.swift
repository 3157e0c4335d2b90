import Foundation
import TestSupport
import Testing

/// What can be asked of a mirror over the control socket, and what is refused.
@Suite(.serialized) struct MirrorCommandTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "8M")
        try agent.tell("bitmap", "add", "disk", "changes")
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", "-c", "flush", agent.uri("disk"),
        ])
    }

    private var target: String { directory.path("target.qcow2") }

    private func mirror(_ arguments: String, _ command: String = "drive-mirror") throws
        -> ToolResult
    {
        let target = command == "drive-mirror" ? #""target": "\#(target)", "# : ""
        return try agent.run([
            "qmp", command, #"{"device": "disk", \#(target)"auto-dismiss": false, \#(arguments)}"#,
        ])
    }

    private func end(_ id: String = "disk") throws {
        _ = try agent.run(["job", "cancel", "--force", id])
        _ = try agent.run(["job", "wait", id])
        _ = try agent.run(["job", "dismiss", id])
        unlink(target)
    }

    private func status(_ id: String) throws -> String {
        struct Job: Decodable { let status: String }
        let text = try agent.tell("--json", "job", "show", id)
        return try JSONDecoder().decode(Job.self, from: Data(text.utf8)).status
    }

    private struct Limited: Decodable { let speed: Int }

    private func speed() throws -> Int? {
        let text = try agent.tell("qmp", "query-block-jobs")
        let jobs = try JSONDecoder().decode([Limited].self, from: Data(text.utf8))
        return jobs.first?.speed
    }

    @Test func everyIllegalMixOfSyncBitmapAndModeIsRefused() throws {
        var illegal: [String] = []
        for sync in ["full", "top", "none"] {
            illegal.append(#""sync": "\#(sync)", "bitmap": "changes""#)
            for mode in ["on-success", "never", "always"] {
                illegal.append(#""sync": "\#(sync)", "bitmap-mode": "\#(mode)""#)
                illegal.append(
                    #""sync": "\#(sync)", "bitmap": "changes", "bitmap-mode": "\#(mode)""#)
            }
        }
        illegal += [
            #""sync": "incremental""#,
            #""sync": "incremental", "bitmap-mode": "on-success""#,
            #""sync": "incremental", "bitmap": "none-by-that-name""#,
            #""sync": "incremental", "bitmap": "changes", "bitmap-mode": "never""#,
            #""sync": "incremental", "bitmap": "changes", "bitmap-mode": "always""#,
            #""sync": "bitmap""#,
            #""sync": "bitmap", "bitmap": "changes""#,
            #""sync": "bitmap", "bitmap-mode": "always""#,
            #""sync": "bitmap", "bitmap": "none-by-that-name", "bitmap-mode": "never""#,
            #""sync": "bitmap", "bitmap": "changes", "bitmap-mode": "sometimes""#,
            #""sync": "bitmap", "bitmap": "changes", "bitmap-mode": "never", "granularity": 65536"#,
            #""sync": "sideways""#,
        ]
        for arguments in illegal {
            #expect(try mirror(arguments).status == 1, "\(arguments)")
            #expect(try agent.run(["job", "show", "disk"]).status == 1, "\(arguments)")
            unlink(target)
        }
        let bitmaps = try agent.tell("bitmap", "list", "disk")
        #expect(!bitmaps.contains("busy"))
        for arguments in [
            #""sync": "incremental", "bitmap": "changes""#,
            #""sync": "incremental", "bitmap": "changes", "bitmap-mode": "on-success""#,
            #""sync": "bitmap", "bitmap": "changes", "bitmap-mode": "never""#,
            #""sync": "bitmap", "bitmap": "changes", "bitmap-mode": "always""#,
        ] {
            let result = try mirror(arguments)
            #expect(result.status == 0, "\(arguments): \(result.errors)")
            try end()
        }
    }

    @Test func granularitiesOutsideOfTheRulesAreRefused() throws {
        for granularity in ["0", "256", "513", "12288", "134217728", "-1"] {
            let result = try mirror(#""sync": "full", "granularity": \#(granularity)"#)
            #expect(result.status == 1, "\(granularity)")
        }
        for granularity in [512, 8192, 64 << 20] {
            let result = try mirror(#""sync": "full", "granularity": \#(granularity)"#)
            #expect(result.status == 0, "\(granularity): \(result.errors)")
            try end()
        }
    }

    @Test func whatIsNotThereIsRefused() throws {
        let missing = try agent.run([
            "qmp", "drive-mirror",
            #"{"device": "none", "target": "\#(target)", "sync": "full"}"#,
        ])
        #expect(missing.status == 1 && missing.errors.contains("Cannot find device='none'"))
        #expect(try mirror(#""sync": "full", "mode": "existing""#).status == 1)
        let self_ = try mirror(#""target": "disk", "sync": "full""#, "blockdev-mirror")
        #expect(self_.status == 1 && self_.errors.contains("Can't mirror node into itself"))
        let absent = try mirror(#""target": "other", "sync": "full""#, "blockdev-mirror")
        #expect(absent.status == 1, "\(absent.errors)")
        // Something is there that is not to be overwritten.
        try Data().write(to: URL(fileURLWithPath: target))
        #expect(try mirror(#""sync": "full""#).status == 1)
    }

    @Test func onlyTheVolumeOrItsTopCanBeReplaced() throws {
        let refused = try mirror(#""sync": "full", "replaces": "something""#)
        #expect(refused.status == 1 && refused.errors.contains("Cannot replace 'something'"))
        unlink(target)
        try agent.tell("volume", "create", "other", "--size", "8M")
        let volume = try mirror(
            #""target": "other", "sync": "full", "replaces": "disk""#, "blockdev-mirror")
        #expect(volume.status == 1 && volume.errors.contains("cannot take the place"))
        struct Volume: Decodable { let path: String }
        let text = try agent.tell("--json", "volume", "show", "disk")
        let top = try JSONDecoder().decode(Volume.self, from: Data(text.utf8)).path
        for name in ["disk", top] {
            let result = try mirror(#""sync": "full", "replaces": "\#(name)""#)
            #expect(result.status == 0, "\(result.errors)")
            try end()
        }
    }

    @Test func theSpeedOfAMirrorIsShownAndChanged() throws {
        #expect(try mirror(#""sync": "full", "speed": -1"#).status == 1)
        #expect(try mirror(#""sync": "full""#).status == 0)
        #expect(try speed() == 0)
        try agent.tell("qmp", "block-job-set-speed", #"{"device": "disk", "speed": 8388608}"#)
        #expect(try speed() == 8 << 20)
        let refused = try agent.run([
            "qmp", "block-job-set-speed", #"{"device": "disk", "speed": -1}"#,
        ])
        #expect(refused.status == 1)
        try end()
        #expect(try mirror(#""sync": "full", "speed": 4194304"#).status == 0)
        #expect(try speed() == 4 << 20)
        try end()
    }

    /// A mirror without an id has the volume's; two cannot have one.
    @Test func theIdIsTheVolumesUnlessAnotherIsGiven() throws {
        #expect(try mirror(#""sync": "full""#).status == 0)
        let second = try mirror(#""sync": "full", "job-id": "second""#)
        #expect(second.status == 1)
        try end()
        #expect(try mirror(#""sync": "full", "job-id": "named""#).status == 0)
        while try status("named") != "ready" { usleep(10_000) }
        try end("named")
    }

    @Test func theJobShowsItsRatesAndItsMode() throws {
        struct Job: Decodable {
            struct Mirror: Decodable {
                let copyMode: String
                let dueBytes: Int
                let copyingRate: Int
                let dirtyingRate: Int
                let activelySynced: Bool

                private enum CodingKeys: String, CodingKey {
                    case copyMode = "copy-mode"
                    case dueBytes = "due-bytes"
                    case copyingRate = "copying-rate"
                    case dirtyingRate = "dirtying-rate"
                    case activelySynced = "actively-synced"
                }
            }
            let mirror: Mirror?
            let activelySynced: Bool?

            private enum CodingKeys: String, CodingKey {
                case mirror
                case activelySynced = "actively-synced"
            }
        }
        #expect(try mirror(#""sync": "full", "speed": 1048576"#).status == 0)
        usleep(1_500_000)
        let text = try agent.tell("qmp", "query-block-jobs")
        let job = try #require(
            try JSONDecoder().decode([Job].self, from: Data(text.utf8)).first?.mirror)
        #expect(job.copyMode == "background" && !job.activelySynced)
        #expect(try agent.tell("job", "show", "disk").contains("guests write"))
        try agent.tell("qmp", "block-job-set-speed", #"{"device": "disk", "speed": 0}"#)
        try agent.tell(
            "qmp", "block-job-change",
            #"{"id": "disk", "type": "mirror", "copy-mode": "write-blocking"}"#)
        while try status("disk") != "ready" { usleep(10_000) }
        let end = Date(timeIntervalSinceNow: 10)
        var isSynced: Bool?
        while isSynced != true, Date() < end {
            let text = try agent.tell("qmp", "query-block-jobs")
            isSynced = try JSONDecoder().decode([Job].self, from: Data(text.utf8))
                .first?.activelySynced
        }
        #expect(isSynced == true)
        try self.end()
    }
}

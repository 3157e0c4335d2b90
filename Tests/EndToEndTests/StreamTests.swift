import Foundation
import TestSupport
import Testing

/// Streams of a volume's images, with QEMU as the judge of what is left.
@Suite(.serialized) struct StreamTests {
    @Test func aStreamLeavesAVolumeThatNeedsNoOtherImage() throws {
        let run = try ChainRun.ofThree()
        try run.start("block-stream")
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.top])
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        for path in run.paths.dropLast() { unlink(path) }
        #expect(try run.chain(of: run.top) == [run.top])
        #expect(try run.content(of: run.top) == run.before)
        try run.startAgain()
        #expect(try run.contents() == run.before)
    }

    @Test func aStreamDownToABaseKeepsTheBase() throws {
        let run = try ChainRun.ofThree()
        let base = try readFile(run.paths[0])
        try run.start("block-stream", ["base": run.paths[0]])
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.top, run.paths[0]])
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        unlink(run.paths[1])
        #expect(try run.chain(of: run.top) == [run.top, run.paths[0]])
        #expect(try run.content(of: run.top) == run.before)
        #expect(try readFile(run.paths[0]) == base)
        // What the base has stays there.
        let map = try Tool.check(["qemu-img", "map", "-f", "qcow2", run.top])
        #expect(map.contains(run.paths[0]))
    }

    @Test func anImageBelowTheTopCanBeStreamedInto() throws {
        let run = try ChainRun.ofThree()
        let middle = try run.content(of: run.paths[1])
        let refusal = try run.refusal("block-stream", ["device": run.paths[1]])
        #expect(refusal.contains("An explicit job ID is required for this node"))
        try run.start("block-stream", ["device": run.paths[1], "job-id": "middle"])
        #expect(try run.wait("middle") == nil)
        #expect(try run.chain() == [run.top, run.paths[1]])
        #expect(try run.contents() == run.before)
        // It is for reading again.
        #expect(try Tool.run(["qemu-img", "info", run.paths[1]]).status == 0)
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        unlink(run.paths[0])
        #expect(try run.content(of: run.paths[1]) == middle)
    }

    @Test func aStreamDownToTheNextImageCopiesNothing() throws {
        let run = try ChainRun.ofThree()
        let map = try Tool.check(["qemu-io", "-U", "-r", "-f", "qcow2", "-c", "map", run.top])
        try run.start("block-stream", ["base": run.paths[1]])
        #expect(try run.wait() == nil)
        #expect(try run.chain() == run.paths.reversed())
        try run.stopAndCheck()
        #expect(
            try Tool.check(["qemu-io", "-r", "-f", "qcow2", "-c", "map", run.top]) == map)
    }

    @Test func aStreamThatIsPausedStandsStill() throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.start("block-stream", ["speed": 4 << 20])
        try run.agent.tell("job", "pause", "disk")
        try run.waitUntil { $0.status == "paused" }
        let offset = try run.status().offset
        usleep(500_000)
        #expect(try run.status().offset == offset)
        try run.agent.tell("job", "resume", "disk")
        try run.agent.tell("job", "set-speed", "disk", "0")
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    @Test func aStreamOfWhatIsNotThereIsRefused() throws {
        let run = try ChainRun.ofThree()
        func refusal(_ arguments: [String: Any]) throws -> String {
            try run.refusal("block-stream", arguments)
        }
        #expect(
            try refusal(["device": "none"])
                .contains("Cannot find device='none' nor node-name='none'"))
        #expect(
            try refusal(["base": "none"]).contains("Can't find 'none' in the backing chain"))
        #expect(try refusal(["speed": -1]).contains("'speed' expects a non-negative value"))
        #expect(
            try refusal(["backing-file": "x"])
                .contains("backing file specified, but streaming the entire chain"))
        #expect(
            try refusal(["base": run.paths[0], "backing-file": run.paths[1]])
                .contains("does not name"))
    }

    @Test func theBaseOfAStreamIsNamedInOneWay() throws {
        let run = try ChainRun.ofThree()
        let (base, middle) = (run.paths[0], run.paths[1])
        func refusal(_ arguments: [String: Any]) throws -> String {
            try run.refusal("block-stream", arguments)
        }
        #expect(
            try refusal(["base": base, "base-node": base])
                .contains("'base' and 'base-node' cannot be specified at the same time"))
        #expect(
            try refusal(["base": base, "bottom": middle])
                .contains("'base' and 'bottom' cannot be specified at the same time"))
        #expect(
            try refusal(["bottom": middle, "base-node": base])
                .contains("'bottom' and 'base-node' cannot be specified at the same time"))
        #expect(try refusal(["base-node": "none"]).contains("node-name='none'"))
        #expect(
            try refusal(["device": middle, "job-id": "x", "base-node": run.top])
                .contains("is not a backing image of"))
        #expect(
            try refusal(["device": middle, "job-id": "x", "base-node": middle])
                .contains("is not a backing image of"))
        #expect(
            try refusal(["device": middle, "job-id": "x", "bottom": run.top])
                .contains("is not in a chain starting from"))
        try run.start("block-stream", ["bottom": middle, "filter-node-name": "f"])
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.top, base])
        try run.stopAndCheck()
        #expect(try run.content(of: run.top) == run.before)
    }

    @Test func whatTheHeaderCallsTheBaseIsWhatWasAskedFor() throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2")
        try run.start(
            "block-stream",
            ["base": run.paths[0], "backing-file": "../\(run.folder)/img0"])
        #expect(try run.wait() == nil)
        let info = try Tool.check(["qemu-img", "info", "-U", run.top])
        #expect(info.contains("backing file: ../\(run.folder)/img0"))
        // Another file under that name would be another disk.
        try run.agent.tell("volume", "snapshot", "disk", run.directory.path("next"))
        let refusal = try run.refusal(
            "block-stream", ["base": run.paths[0], "backing-file": "img1"])
        #expect(refusal.contains("does not name"))
        #expect(try run.contents() == run.before)
    }

    /// Images that are shorter than what is above them hide what is below.
    @Test func aStreamOverASmallerBackingEnds() throws {
        let lengths = [4 << 20, 1 << 20, 3 << 20, 5 << 20]
        for base in [nil, 0, 1] as [Int?] {
            let run = try ChainRun(
                lengths.enumerated().map { number, length in
                    ChainRun.Image(
                        lengthBytes: length,
                        commands: ["write -P \(number + 1) \(number * 100_000) 300000"]
                            + (number == 0 ? ["write -P 9 2M 1M"] : []))
                })
            try run.start("block-stream", base.map { ["base": run.paths[$0]] } ?? [:])
            #expect(try run.wait() == nil)
            #expect(try run.contents() == run.before, "down to \(base ?? -1)")
            try run.stopAndCheck()
            #expect(try run.content(of: run.top) == run.before, "down to \(base ?? -1)")
        }
    }

    @Test func aStreamIsCancelledAtOnce() throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.start("block-stream", ["speed": 1 << 20])
        try run.agent.tell("qmp", "block-job-cancel", #"{"device": "disk"}"#)
        #expect(try run.wait() != nil)
        #expect(try run.chain() == run.paths.reversed())
        #expect(try run.contents() == run.before)
        try run.start("block-stream")
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    @Test func theSpeedOfAStreamIsAsAsked() throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.start("block-stream", ["priority": "normal"])
        #expect(try run.wait() == nil)
        let second = try ChainRun.ofThree(mibibytes: 16)
        try second.start("block-stream", ["speed": 1 << 20, "priority": "normal"])
        #expect(try second.status().speed == 1 << 20)
        try second.agent.tell(
            "qmp", "block-job-set-speed", #"{"device": "disk", "speed": 8388608}"#)
        #expect(try second.status().speed == 8 << 20)
        let answer = try second.agent.run([
            "qmp", "block-job-set-speed", #"{"device": "disk", "speed": -1}"#,
        ])
        #expect(answer.errors.contains("'speed' expects a non-negative value"))
        try second.agent.tell("job", "cancel", "disk")
    }

    @Test func severalStreamsOfOneChainRunSideBySide() throws {
        let run = try ParallelChain.make()
        let top = run.paths.count - 1
        for number in stride(from: 2, through: top, by: 2) {
            try run.start(
                "block-stream",
                [
                    "device": run.paths[number], "job-id": "s\(number)",
                    "base": run.paths[number - 2], "speed": 1 << 20,
                ])
        }
        for number in stride(from: 2, through: top, by: 2) {
            #expect(try run.wait("s\(number)") == nil)
        }
        let left = stride(from: top, through: 0, by: -2).map { run.paths[$0] }
        #expect(try run.chain() == left)
        #expect(try run.contents() == run.before)
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        #expect(try run.chain(of: run.top) == left)
        #expect(try run.content(of: run.top) == run.before)
    }

    @Test func aStreamAndACommitOfOneChainRunSideBySide() throws {
        let run = try ParallelChain.make()
        try run.start(
            "block-stream",
            ["device": run.paths[2], "job-id": "stream", "auto-finalize": false])
        try run.start("block-commit", ["base": run.paths[3], "job-id": "commit"])
        try run.waitUntil("commit") { $0.ready }
        #expect(try run.status("commit").type == "commit")
        try run.agent.tell("job", "complete", "commit")
        #expect(try run.wait("commit") == nil)
        try run.waitUntil("stream") { $0.status == "pending" }
        try run.agent.tell("job", "finalize", "stream")
        #expect(try run.wait("stream") == nil)
        #expect(try run.chain() == [run.paths[3], run.paths[2]])
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        #expect(try run.content(of: run.paths[3]) == run.before)
    }

    @Test func jobsThatMeetInAnImageExcludeEachOther() throws {
        let run = try ParallelChain.make()
        let paths = run.paths
        func isBusy(_ command: String, _ arguments: [String: Any]) throws {
            let refusal = try run.refusal(command, arguments)
            #expect(refusal.contains("is busy"), "\(command) \(arguments): \(refusal)")
        }
        try run.start(
            "block-stream",
            ["device": paths[4], "job-id": "s", "base": paths[1], "auto-finalize": false])
        try isBusy("block-stream", ["device": paths[5], "job-id": "a", "base": paths[2]])
        try isBusy("block-stream", ["device": paths[3], "job-id": "b", "base": paths[2]])
        try isBusy("block-stream", ["device": paths[4], "job-id": "c"])
        try isBusy("block-commit", ["base": paths[4], "job-id": "d"])
        try isBusy("block-commit", ["base": paths[1], "top": paths[3], "job-id": "e"])
        try isBusy("block-commit", ["base": paths[0], "top": paths[1], "job-id": "f"])
        try run.agent.tell("job", "cancel", "s")
        _ = try run.wait("s")

        try run.start(
            "block-commit",
            ["top": paths[5], "base": paths[3], "job-id": "c", "auto-finalize": false])
        try isBusy("block-stream", ["device": paths[3], "job-id": "a"])
        try isBusy("block-stream", ["device": paths[6], "job-id": "b", "base": paths[2]])
        try isBusy("block-stream", ["device": paths[4], "job-id": "d", "base": paths[2]])
        try isBusy("block-stream", ["device": paths[6], "job-id": "e", "base": paths[4]])
        try isBusy("block-stream", ["device": paths[7], "job-id": "f", "base": paths[5]])
        try run.agent.tell("job", "cancel", "c")
        _ = try run.wait("c")

        try run.start(
            "block-commit",
            ["top": paths[2], "base": paths[0], "job-id": "c", "auto-finalize": false])
        try isBusy("block-stream", ["device": paths[4], "job-id": "a", "base": paths[2]])
        try run.agent.tell("job", "cancel", "c")
        _ = try run.wait("c")

        try run.start("block-commit", ["base": paths[3], "job-id": "c", "auto-finalize": false])
        try isBusy("block-stream", ["device": paths[5], "job-id": "a", "base": paths[3]])
        let snapshot = try run.agent.run([
            "volume", "snapshot", "disk", run.directory.path("new"),
        ])
        #expect(snapshot.status != 0 && snapshot.errors.contains("is busy"))
        try run.agent.tell("job", "cancel", "--force", "c")
        _ = try run.wait("c")
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        #expect(try run.content(of: run.top) == run.before)
    }

    /// The base is on a server whose reads fail as long as a file is there.
    @Test(arguments: ["report", "ignore", "stop", "enospc", "enospc-full"])
    func aStreamMeetsReadErrorsAsItsPolicySays(policy: String) throws {
        let server = try FaultyServer(lengthBytes: 2 << 20, failing: "pread", policy)
        defer { server.stop() }
        let run = try ChainRun([
            ChainRun.Image(format: "raw", lengthBytes: 2 << 20, uri: server.uri),
            ChainRun.Image(lengthBytes: 2 << 20, commands: ["write -P 5 1M 4096"]),
        ])
        server.breaks()
        let onError = policy.hasPrefix("enospc") ? "enospc" : policy
        try run.start("block-stream", ["on-error": onError])
        switch policy {
        case "stop", "enospc-full":
            try run.waitUntil { $0.paused && $0.status == "paused" }
            #expect(try run.status().ioStatus == (policy == "stop" ? "failed" : "nospace"))
            server.heals()
            try run.agent.tell("job", "resume", "disk")
            #expect(try run.wait() == nil)
            #expect(try run.chain() == [run.top])
        default:
            #expect(try run.wait() != nil)
            server.heals()
            #expect(try run.chain().count == 2)
        }
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    /// What was copied is kept, and the rest follows after the next start by itself.
    @Test func aStreamGoesOnAfterTheAgentWasKilled() throws {
        var random = Seed.generator("stream and kill")
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        let guest = try Guest(
            uri: run.agent.uri("disk"), seed: UInt32.random(in: 1...1_000_000, using: &random),
            log: run.directory.path("guest.log"))
        try run.start(
            "block-stream",
            ["job-id": "long", "base": run.paths[0], "speed": 4 << 20, "priority": "normal"])
        usleep(UInt32.random(in: 0...1_500_000, using: &random))
        run.agent.stop(SIGKILL)
        let log = try guest.waitForLoss()
        try run.startAgain()
        let after = try run.contents()
        let fault = log.faultAfterKill(of: after, before: run.before)
        #expect(fault == nil, "\(fault ?? "")")
        // Either it had ended, or it goes on.
        if try run.chain().count == 3 {
            try run.waitUntil("long") { $0.type == "stream" }
            try run.agent.tell("job", "set-speed", "long", "0")
            #expect(try run.wait("long") == nil)
        }
        #expect(try run.chain() == [run.top, run.paths[0]])
        #expect(try run.contents() == after)
        let point = try run.agent.backUp("disk")
        #expect(point.level == "incremental" && point.reason == "bitmap")
        #expect(try run.agent.restore(point.id, to: run.directory.path("restored")) == after)
        try run.stopAndCheck(wasKilled: true)
    }

    /// At its end, where the header changes before the catalog does.
    @Test func aKillAroundTheEndOfAStreamCostsNothing() throws {
        var random = Seed.generator("stream's end and kill")
        let run = try ChainRun.ofThree()
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        var droppedCount = 0
        for round in 0..<8 {
            let overlay = run.directory.path("over\(round)")
            try run.agent.tell("volume", "snapshot", "disk", overlay)
            try run.start("block-stream", ["base": run.paths[0], "priority": "normal"])
            usleep(UInt32.random(in: 0...60_000, using: &random))
            run.agent.stop(SIGKILL)
            try run.startAgain()
            if try !waitUntilDropped(run) {
                _ = try run.agent.run(["job", "dismiss", "disk"])
                try run.start("block-stream", ["base": run.paths[0]])
                #expect(try waitUntilDropped(run))
            } else {
                droppedCount += 1
            }
            _ = try run.agent.run(["job", "wait", "disk"])
            _ = try run.agent.run(["job", "dismiss", "disk"])
            #expect(try run.chain() == [overlay, run.paths[0]])
            #expect(try run.contents() == run.before, "round \(round)")
            let point = try run.agent.backUp("disk")
            #expect(point.reason == "bitmap", "round \(round)")
        }
        print("\(droppedCount) of 8 streams had ended or went on by themselves")
        try run.stopAndCheck(wasKilled: true)
    }

    private func waitUntilDropped(_ run: ChainRun) throws -> Bool {
        for _ in 0..<100 {
            if try run.chain().count == 2 { return true }
            usleep(50_000)
        }
        return false
    }
}

/// The chain of QEMU's own test of jobs side by side: nine images, every second with content.
enum ParallelChain {
    static func make() throws -> ChainRun {
        try ChainRun(
            (0..<9).map { number in
                guard number % 2 == 1 else { return ChainRun.Image() }
                let index = number / 2
                let count = (512 + 512 * (index % 2)) << 10
                return ChainRun.Image(
                    commands: ["write -P \(index + 1) \(index << 20) \(count)"])
            })
    }
}

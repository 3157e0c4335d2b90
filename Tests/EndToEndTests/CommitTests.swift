import Foundation
import TestSupport
import Testing

/// Commits of a volume's images, with QEMU as the judge of what is left.
@Suite(.serialized) struct CommitTests {
    @Test(arguments: ["raw", "qcow2"], [true, false])
    func aCommitBelowTheTopMovesContentIntoTheBase(format: String, byNode: Bool) throws {
        let run = try ChainRun.ofThree(baseFormat: format)
        let middle = try run.content(of: run.paths[1])
        let suffix = byNode ? "-node" : ""
        try run.start(
            "block-commit", ["top\(suffix)": run.paths[1], "base\(suffix)": run.paths[0]])
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.top, run.paths[0]])
        #expect(try run.contents() == run.before)
        // The base is for reading again.
        #expect(try Tool.run(["qemu-img", "info", run.paths[0]]).status == 0)
        try run.stopAndCheck()
        unlink(run.paths[1])
        #expect(try run.chain(of: run.top) == [run.top, run.paths[0]])
        #expect(try run.content(of: run.top) == run.before)
        #expect(try run.content(of: run.paths[0], format) == middle)
        try run.startAgain()
        #expect(try run.contents() == run.before)
    }

    /// The image above is not the top, and was opened for reading.
    @Test func anOverlayBelowTheTopNamesTheBaseAfterACommit() throws {
        let run = try ChainRun(
            (0..<4).map { number in
                ChainRun.Image(commands: ["write -P \(number + 1) \(number << 19) 1536k"])
            })
        let overlay = try run.content(of: run.paths[2])
        try run.start("block-commit", ["top": run.paths[1], "base": run.paths[0]])
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.paths[3], run.paths[2], run.paths[0]])
        #expect(try run.contents() == run.before)
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        unlink(run.paths[1])
        #expect(try run.content(of: run.top) == run.before)
        #expect(try run.content(of: run.paths[2]) == overlay)
    }

    /// The image above was the top when the agent started, and is one no more.
    @Test(arguments: ["block-commit", "block-stream"])
    func anImageThatWasTheTopIsWrittenLikeAnyOtherBelowIt(command: String) throws {
        let run = try ChainRun.ofThree()
        try run.agent.tell("bitmap", "add", "disk", "b")
        for number in 1...2 {
            try write(run, "write -P \(number) \(number)M 100000")
            try run.agent.tell("volume", "snapshot", "disk", run.directory.path("s\(number)"))
        }
        try write(run, "write -P 7 3M 100000")
        let expected = try run.contents()
        // The first snapshot's image stands over what was the top.
        let (above, below) = (run.directory.path("s1"), run.top)
        if command == "block-commit" {
            try run.start(command, ["top": below, "base": run.paths[1], "job-id": "disk"])
        } else {
            try run.start(command, ["device": above, "base": run.paths[1], "job-id": "disk"])
        }
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.directory.path("s2"), above, run.paths[1], run.paths[0]])
        #expect(try run.contents() == expected)
        // Nobody else has written them, so the bitmaps are trusted.
        try run.restart()
        #expect(try run.contents() == expected)
        #expect(try !run.agent.tell("bitmap", "show", "disk", "b").contains("inconsistent"))
        try run.stopAndCheck()
        try Tool.check(["qemu-img", "check", "-q", above])
    }

    @Test(arguments: [true, false])
    func aCommitOfTheTopIsReadyAndThenPivots(isNamed: Bool) throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2")
        try run.agent.tell("bitmap", "add", "disk", "b")
        try run.start(
            "block-commit", isNamed ? ["top": run.top, "base": run.paths[0]] : [:])
        try run.waitUntil { $0.ready }
        let look = try run.status()
        #expect(look.type == "commit" && look.status == "ready" && look.offset == look.len)
        try write(run, "write -P 77 1M 100000")
        let expected = try run.contents()
        #expect(try run.chain() == run.paths.reversed())
        try run.agent.tell("job", "complete", "disk")
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.paths[0]])
        #expect(try run.contents() == expected)
        try write(run, "write -P 78 3M 4096")
        #expect(try dirtyBytes(run) == (1 << 20 + 100_000).roundedUp + 65_536)
        let after = try run.contents()
        try run.restart()
        #expect(try run.contents() == after)
        try run.stopAndCheck()
        #expect(try run.content(of: run.paths[0]) == after)
    }

    @Test func aCommitThatIsReadyCanEndWithoutAPivot() throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2")
        try run.start("block-commit")
        try run.waitUntil { $0.ready }
        try run.agent.tell("qmp", "block-job-cancel", #"{"device": "disk"}"#)
        #expect(try run.wait() == nil)
        #expect(try run.chain() == run.paths.reversed())
        #expect(try run.contents() == run.before)
        // The base has everything, and is for reading again.
        #expect(try run.content(of: run.paths[0]) == run.before)
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    @Test func aCommitThatIsCancelledLeavesTheVolumeAsItWas() throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2", mibibytes: 16)
        for arguments in [["top": run.paths[1]], [:]] as [[String: Any]] {
            var arguments = arguments
            arguments["speed"] = 1 << 20
            try run.start("block-commit", arguments)
            try run.agent.tell("job", "cancel", "--force", "disk")
            #expect(try run.wait() != nil)
            #expect(try run.chain() == run.paths.reversed())
            #expect(try run.contents() == run.before)
        }
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.start("block-commit", ["top": run.paths[1]])
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    @Test func anAgentThatStopsDuringACommitLeavesTheVolumeAsItWas() throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2", mibibytes: 16)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        for arguments in [["top": run.paths[1]], [:]] as [[String: Any]] {
            var arguments = arguments
            arguments["speed"] = 1 << 20
            try run.start("block-commit", arguments)
            usleep(100_000)
            try run.restart()
            _ = try run.agent.run(["job", "dismiss", "disk"])
            #expect(try run.chain() == run.paths.reversed())
            #expect(try run.contents() == run.before)
            #expect(try run.agent.backUp("disk").reason == "bitmap")
        }
        try run.stopAndCheck()
        #expect(try run.content(of: run.top) == run.before)
    }

    @Test func aCommitOfWhatIsNotThereIsRefused() throws {
        let run = try ChainRun.ofThree()
        let (base, middle) = (run.paths[0], run.paths[1])
        func refusal(_ arguments: [String: Any]) throws -> String {
            try run.refusal("block-commit", arguments)
        }
        #expect(try refusal(["device": "none"]).contains("Device 'none' not found"))
        #expect(
            try refusal(["top": base, "base": base])
                .contains("Can't find '\(base)' in the backing chain"))
        #expect(
            try refusal(["top": "badfile", "base": base])
                .contains("Top image file badfile not found"))
        #expect(
            try refusal(["top": middle, "base": "badfile"])
                .contains("Can't find 'badfile' in the backing chain"))
        #expect(
            try refusal(["top": base, "base": middle])
                .contains("Can't find '\(middle)' in the backing chain"))
        #expect(
            try refusal(["top-node": "badnode", "base-node": base])
                .contains("Cannot find device='' nor node-name='badnode'"))
        #expect(
            try refusal(["top-node": middle, "base-node": "badnode"])
                .contains("Cannot find device='' nor node-name='badnode'"))
        #expect(
            try refusal(["top-node": base, "base-node": middle])
                .contains("'\(middle)' is not in this backing file chain"))
        #expect(
            try refusal(["top-node": base, "base-node": base])
                .contains("cannot commit an image into itself"))
        #expect(
            try refusal(["top": middle, "top-node": middle])
                .contains("'top-node' and 'top' are mutually exclusive"))
        #expect(
            try refusal(["base": base, "base-node": base])
                .contains("'base-node' and 'base' are mutually exclusive"))
        #expect(
            try refusal(["backing-file": base])
                .contains("'backing-file' specified, but 'top' is the active layer"))
        #expect(try refusal(["speed": -5]).contains("'speed' expects a non-negative value"))
        #expect(try run.contents() == run.before)
    }

    @Test func imagesAreFoundByTheRelativeNamesOfTheirHeaders() throws {
        let run = try ChainRun(
            [
                ChainRun.Image(commands: ["write -P 1 0 2M"]),
                ChainRun.Image(commands: ["write -P 2 1M 2M"]), ChainRun.Image(),
            ], areRelative: true)
        #expect(
            try run.refusal(
                "block-commit", ["top": "../\(run.folder)/img0", "base": "../\(run.folder)/img1"]
            ).contains("in the backing chain"))
        try run.start(
            "block-commit", ["top": "../\(run.folder)/img1", "base": "../\(run.folder)/img0"])
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        #expect(try run.chain().count == 2)
        try run.stopAndCheck()
        #expect(try run.chain(of: run.top) == [run.top, run.paths[0]])
        #expect(try run.content(of: run.paths[0]) == run.before)
    }

    @Test func theSpeedOfACommitIsAsAsked() throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.start("block-commit", ["top": run.paths[1], "speed": 1 << 20])
        #expect(try run.status().speed == 1 << 20)
        #expect(try run.status().type == "commit")
        try run.agent.tell("job", "cancel", "disk")
        _ = try run.wait()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    /// The base is made longer where it has to be, and never shorter; what a short image hides
    /// stays hidden.
    @Test(arguments: [[1, 3, 4], [4, 1, 3], [2, 1, 4], [4, 3, 1]], [true, false])
    func aCommitOfImagesOfSeveralLengthsKeepsTheContent(mibibytes: [Int], ofTop: Bool) throws {
        let run = try ChainRun(
            mibibytes.enumerated().map { number, length in
                ChainRun.Image(
                    lengthBytes: length << 20,
                    commands: [
                        "write -P \(number + 1) \(number * 100_000) 300000",
                        "write -P \(number + 7) \(length << 20 - 70000) 70000",
                    ])
            })
        try run.start("block-commit", ofTop ? [:] : ["top": run.paths[1]])
        if ofTop {
            try run.waitUntil { $0.ready }
            try run.agent.tell("job", "complete", "disk")
        }
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        let baseLength = try run.content(of: run.paths[0]).count
        #expect(baseLength == max(mibibytes[0], mibibytes[ofTop ? 2 : 1]) << 20)
        try run.restart()
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        let content = try run.content(of: ofTop ? run.paths[0] : run.top)
        #expect(Array(content.prefix(run.before.count)) == run.before)
    }

    @Test func aCommitOfImagesOfNoSizeEnds() throws {
        let run = try ChainRun([
            ChainRun.Image(lengthBytes: 0), ChainRun.Image(lengthBytes: 0),
            ChainRun.Image(lengthBytes: 0),
        ])
        try run.start("block-commit", ["top": run.paths[1]])
        #expect(try run.wait() == nil)
        try run.start("block-commit")
        try run.waitUntil { $0.ready }
        try run.agent.tell("job", "complete", "disk")
        #expect(try run.wait() == nil)
        #expect(try run.chain() == [run.paths[0]])
        try run.stopAndCheck()
    }

    @Test func aBaseThatOthersUseIsNotWritten() throws {
        let run = try ChainRun.ofThree(baseFormat: "qcow2")
        let other = run.directory.path("other")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", run.paths[0], "-F", "qcow2", other,
        ])
        try run.agent.tell("volume", "import", "other", other, "--format", "qcow2")
        for arguments in [["top": run.paths[1]], [:]] as [[String: Any]] {
            let refusal = try run.refusal("block-commit", arguments)
            #expect(refusal.contains("volume other uses it too"))
        }
        try run.agent.tell("volume", "remove", "other")
        // QEMU has it open, which only its locks tell.
        let reader = try Reader(run.paths[0], socket: run.directory.path("reader.sock"))
        try run.start("block-commit", ["top": run.paths[1]])
        #expect(try run.wait()?.contains("has this image open") == true)
        #expect(try run.contents() == run.before)
        reader.server.stop()
        try run.start("block-commit", ["top": run.paths[1]])
        #expect(try run.wait() == nil)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    @Test func aRestorePointIsNoBase() throws {
        let scenario = try RestoreScenario()
        try scenario.agent.tell(
            "restore", scenario.points[0].id, "--as-volume", "now", "--instant", "--limit", "1M")
        let result = try scenario.agent.run(["commit", "now"])
        #expect(result.status != 0 && result.errors.contains("belongs to a restore point"))
        let content = try scenario.contents(of: "now")
        #expect(content == scenario.points[0].content)
    }

    /// The base is on a server whose writes fail as long as a file is there.
    @Test(arguments: ["report", "ignore", "stop", "enospc", "enospc-full"])
    func aCommitMeetsWriteErrorsAsItsPolicySays(policy: String) throws {
        let server = try FaultyServer(lengthBytes: 4 << 20, failing: "pwrite", policy)
        defer { server.stop() }
        let run = try ChainRun([
            ChainRun.Image(format: "raw", uri: server.uri),
            ChainRun.Image(commands: ["write -P 3 512k 2M"]), ChainRun.Image(),
        ])
        server.breaks()
        let onError = policy.hasPrefix("enospc") ? "enospc" : policy
        try run.start("block-commit", ["top": run.paths[1], "on-error": onError])
        switch policy {
        case "stop", "enospc-full":
            try run.waitUntil { $0.status == "paused" }
            #expect(try run.status().ioStatus == (policy == "stop" ? "failed" : "nospace"))
            #expect(try run.contents() == run.before)
            server.heals()
            try run.agent.tell("job", "resume", "disk")
            #expect(try run.wait() == nil)
        case "ignore":
            usleep(300_000)
            server.heals()
            #expect(try run.wait() == nil)
        default:
            #expect(try run.wait() != nil)
            server.heals()
            #expect(try run.chain().count == 3)
            #expect(try run.contents() == run.before)
            try run.start("block-commit", ["top": run.paths[1]])
            #expect(try run.wait() == nil)
        }
        #expect(try run.chain() == [run.top, run.paths[0]])
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
    }

    /// Under a guest, and killed while images are copied, in step, and around the end.
    @Test(arguments: [true, false])
    func nothingIsLostWhenTheAgentIsKilledDuringACommit(ofTop: Bool) throws {
        var random = Seed.generator("commit \(ofTop) and kill")
        let run = try ChainRun.ofThree(baseFormat: "qcow2", mibibytes: 16)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        var endedCount = 0
        for round in 0..<6 {
            try run.agent.tell("volume", "snapshot", "disk", run.directory.path("over\(round)"))
            let before = try run.contents()
            let guest = try Guest(
                uri: run.agent.uri("disk"), seed: UInt32.random(in: 1...1_000_000, using: &random),
                log: run.directory.path("guest.log"))
            let chain = try run.chain()
            try run.start(
                "block-commit",
                ofTop
                    ? ["base": chain[max(chain.count - 1 - round % 2, 1)]]
                    : ["top": chain[1], "base": chain[chain.count - 1]])
            if ofTop, round % 3 > 0 { try run.waitUntil { $0.ready } }
            let command =
                ofTop && round % 3 == 2 ? try run.agent.begin("job", "complete", "disk") : nil
            usleep(UInt32.random(in: 0...(command == nil ? 80_000 : 250_000), using: &random))
            run.agent.stop(SIGKILL)
            command?.waitUntilExit()
            let log = try guest.waitForLoss()
            try run.startAgain()
            _ = try run.agent.run(["job", "dismiss", "disk"])
            let after = try run.contents()
            let fault = log.faultAfterKill(of: after, before: before)
            #expect(fault == nil, "round \(round): \(fault ?? "")")
            if try run.chain().count < chain.count { endedCount += 1 }
            let point = try run.agent.backUp("disk")
            #expect(point.level == "incremental" && point.reason == "bitmap", "round \(round)")
            let restored = try run.agent.restore(point.id, to: run.directory.path("restored"))
            #expect(restored == after, "round \(round)")
        }
        print("\(endedCount) of 6 commits had ended when the agent was killed")
        let last = try run.contents()
        let top = try run.chain()[0]
        try run.stopAndCheck(wasKilled: true)
        #expect(try run.content(of: top) == last)
    }

    /// The bitmaps are the volume's, whatever image it is on.
    @Test func anIncrementAfterACommitUnderAGuestIsWhole() throws {
        var random = Seed.generator("commit under a guest")
        let run = try ChainRun.ofThree(baseFormat: "qcow2", mibibytes: 16)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        let guest = try Guest(
            uri: run.agent.uri("disk"), seed: UInt32.random(in: 1...1_000_000, using: &random),
            log: run.directory.path("guest.log"))
        let commit = try run.agent.run(["commit", "disk", "--complete"])
        #expect(commit.status == 0, "\(commit.errors)")
        #expect(try run.chain() == [run.paths[0]])
        usleep(50_000)
        let log = try guest.finish()
        let after = try run.contents()
        #expect(log.faultAfterKill(of: after, before: run.before) == nil)
        let point = try run.agent.backUp("disk")
        #expect(point.level == "incremental" && point.reason == "bitmap")
        #expect(try run.agent.restore(point.id, to: run.directory.path("restored")) == after)
        try run.restart()
        let second = try run.agent.backUp("disk")
        #expect(second.reason == "bitmap" && second.dirtyBytes == 0)
        try run.stopAndCheck()
    }

    private func write(_ run: ChainRun, _ command: String) throws {
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", command, "-c", "flush", run.agent.uri("disk"),
        ])
    }

    private func dirtyBytes(_ run: ChainRun) throws -> Int {
        struct Bitmap: Decodable {
            let count: Int
        }
        let text = try run.agent.tell("--json", "bitmap", "show", "disk", "b")
        return try JSONDecoder().decode(Bitmap.self, from: Data(text.utf8)).count
    }
}

extension Int {
    /// What granules of 64 KiB cover of a write of 100000 bytes at 1 MiB.
    fileprivate var roundedUp: Int { (self - 1 << 20 + 65_535) / 65_536 * 65_536 }
}

/// QEMU, reading an image.
private struct Reader {
    let server: ServerProcess

    init(_ path: String, socket: String) throws {
        server = try ServerProcess(
            ["qemu-nbd", "-r", "-t", "-f", "qcow2", "-k", socket, path], socket: socket)
    }
}

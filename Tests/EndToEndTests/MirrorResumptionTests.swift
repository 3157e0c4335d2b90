import Foundation
import TestSupport
import Testing

/// Mirrors that the end of an agent interrupts.
@Suite(.serialized) struct MirrorResumptionTests {
    /// Killed, or told to end, while it copies and while it is in step: it goes on, and at its end
    /// source and target are equal.
    @Test func aMirrorGoesOnAfterARestart() throws {
        var random = Seed.generator("mirror goes on")
        let run = try MirrorRun(&random)
        for round in 0..<4 * MirrorTests.roundCount {
            let before = try run.contents()
            var guest = try run.startGuest(&random)
            let path = run.directory.path("target\(round).qcow2")
            let mode = random.next() % 2 == 0 ? "background" : "write-blocking"
            try run.agent.tell(
                "mirror", "disk", path, "--sync", "full", "--format", "qcow2", "--copy-mode", mode)
            if round % 2 == 1 { try run.waitUntilReady() }
            usleep(UInt32.random(in: 0...80_000, using: &random))
            run.agent.stop(round % 4 < 2 ? SIGKILL : SIGTERM)
            let lost = try guest.waitForLoss()
            try run.startAgain()
            try run.waitUntilReady()
            let mirror = try run.mirror()
            #expect(mirror.mirror?.resumed == true, "round \(round)")
            #expect(mirror.mirror?.copyMode == mode)
            let between = try run.contents()
            #expect(lost.faultAfterKill(of: between, before: before) == nil, "round \(round)")
            guest = try run.startGuest(&random)
            usleep(UInt32.random(in: 0...80_000, using: &random))
            let old = try run.top()
            let answer = try run.end(completes: true)
            usleep(50_000)
            let log = try guest.finish()
            #expect(try run.top() == path)
            let frozen = try run.image(old, old.hasSuffix("qcow2") ? "qcow2" : "raw")
            let fault = log.fault(
                of: frozen, before: between, freezeMilliseconds: answer.instantMilliseconds)
            #expect(fault == nil, "round \(round): \(fault ?? "")")
            let now = try run.contents()
            #expect(log.faultAfterKill(of: now, before: between) == nil, "round \(round)")
        }
        let last = try run.top()
        run.agent.stop(SIGTERM)
        #expect(run.agent.exitStatus == 0)
        try Tool.check(["qemu-img", "check", "-q", last])
    }

    /// "It was zero" is true of the beginning only: zeroes over what was copied before the end are
    /// written.
    @Test func zeroesReachATargetThatWasZeroBeforeTheRestart() throws {
        var random = Seed.generator("mirror target is zero")
        let run = try MirrorRun(&random)
        let target = run.path(of: .qcow2)
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", target, "\(run.before.count)"])
        try run.agent.tell(
            "qmp", "drive-mirror",
            #"{"device": "disk", "target": "\#(target)", "sync": "full", "format": "qcow2", "#
                + #""mode": "existing", "target-is-zero": true, "auto-dismiss": false}"#)
        try run.waitUntilReady()
        // Every five seconds it makes sure of what it has copied, which is not copied again then.
        sleep(6)
        try run.restart(SIGTERM)
        try run.waitUntilReady()
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -z 3M 1M", "-c", "discard 7M 1M",
            run.agent.uri("disk"),
        ])
        let expected = try run.contents()
        #expect(try run.end(completes: true).pivoted)
        #expect(try run.contents() == expected)
    }

    /// What source and target both had durably is not copied again.
    @Test func whatTheTargetHasIsNotCopiedAgain() throws {
        var random = Seed.generator("mirror settled")
        let run = try MirrorRun(&random)
        try run.mirror(.qcow2, ["--format", "qcow2"])
        // Every five seconds it makes sure of what it has copied.
        sleep(6)
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 5 3M 64k", "-c", "flush",
            run.agent.uri("disk"),
        ])
        run.agent.stop(SIGKILL)
        try run.startAgain()
        try run.waitUntilReady()
        let answer = try run.end(completes: false)
        #expect(answer.copiedBytes >= 64 << 10 && answer.copiedBytes <= 4 << 20)
        let source = try run.contents()
        #expect(try run.image(run.path(of: .qcow2), "qcow2") == source)
    }

    /// An incremental mirror keeps its bitmap busy across the restart, and settles it at its end.
    @Test func anIncrementalMirrorGoesOnWithItsBitmap() throws {
        var random = Seed.generator("incremental mirror goes on")
        let run = try MirrorRun(&random)
        try run.agent.tell("bitmap", "add", "disk", "changes")
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 5 3M 64k", "-c", "flush",
            run.agent.uri("disk"),
        ])
        let target = run.path(of: .qcow2)
        try run.agent.tell(
            "mirror", "disk", target, "--sync", "incremental", "--bitmap", "changes", "--format",
            "qcow2", "--wait")
        run.agent.stop(SIGKILL)
        try run.startAgain()
        let refused = try run.agent.run(["bitmap", "clear", "disk", "changes"])
        #expect(refused.status == 1 && refused.errors.contains("job 'disk' uses it"))
        try run.waitUntilReady()
        _ = try run.end(completes: false)
        let bitmaps = try run.agent.tell("bitmap", "list", "disk")
        #expect(!bitmaps.contains("busy"))
        try run.agent.tell("bitmap", "clear", "disk", "changes")
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "read -P 5 3M 64k", target])
    }

    /// Without its target a mirror is shown as one that failed; the volume and its bitmaps are free.
    @Test(arguments: ["gone", "another"])
    func aMirrorWhoseTargetIsGoneIsGivenUp(way: String) throws {
        var random = Seed.generator("mirror target gone")
        let run = try MirrorRun(&random)
        try run.mirror(.qcow2, ["--format", "qcow2"])
        let target = run.path(of: .qcow2)
        run.agent.stop(SIGKILL)
        try FileManager.default.moveItem(atPath: target, toPath: target + ".away")
        if way == "another" {
            try Tool.check([
                "qemu-img", "create", "-q", "-f", "qcow2", target, "\(run.before.count)",
            ])
        }
        try run.startAgain()
        let end = Date(timeIntervalSinceNow: 20)
        while try run.agent.run(["job", "show", "disk"]).status != 0 {
            try #require(Date() < end)
            usleep(20_000)
        }
        let left = try run.mirror()
        #expect(left.status == "concluded")
        #expect(left.error?.contains("cannot go on") == true, "\(left.error ?? "")")
        #expect(left.error?.contains("it is gone, or another file has its name") == true)
        try run.giveUp()
        unlink(target)
        try run.mirror(.qcow2, ["--format", "qcow2"])
        let answer = try run.end(completes: true)
        #expect(answer.pivoted)
        #expect(try run.contents() == run.before)
    }

    /// Whoever starts a mirror at the wrong moment learns which one is in the way.
    @Test func aVolumeHasOneMirrorAtATimeAlsoAfterARestart() throws {
        var random = Seed.generator("one mirror")
        let run = try MirrorRun(&random)
        try run.mirror(.qcow2, ["--format", "qcow2"])
        run.agent.stop(SIGTERM)
        try run.startAgain()
        let second = try run.agent.run(
            ["mirror", "disk", run.directory.path("second"), "--sync", "full", "--job-id", "other"])
        #expect(second.status == 1 && second.errors.contains("job 'disk'"), "\(second.errors)")
        // And what was made for it is gone.
        #expect(try run.agent.run(["job", "show", "other"]).status == 1)
        try run.waitUntilReady()
        _ = try run.end(completes: true)
        #expect(try run.contents() == run.before)
    }
}

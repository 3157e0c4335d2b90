import Foundation
import TestSupport
import Testing

/// Mirrors under a guest that never stops writing.
@Suite(.serialized) struct MirrorTests {
    static let lengthBytes = (16 << 20) + 4608

    enum Target: String, CaseIterable { case raw, qcow2, nbd }

    /// How often each is done, with other random choices: TIDEMARK_MIRROR_ROUNDS, or 1.
    static var roundCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_MIRROR_ROUNDS"].flatMap { Int($0) } ?? 1
    }

    @Test(arguments: Target.allCases, [true, false])
    func sourceAndTargetAreEqualAtTheEnd(target: Target, completes: Bool) throws {
        var random = Seed.generator("mirror \(target) \(completes)")
        for _ in 0..<Self.roundCount {
            let run = try MirrorRun(&random)
            // Before the guest: it would inherit the pipe whose end tells the guest to stop.
            let server = target == .nbd ? try run.serveTarget() : nil
            defer { server?.stop() }
            let guest = try run.startGuest(&random)
            var options = ["--copy-mode", random.next() % 2 == 0 ? "background" : "write-blocking"]
            if target != .nbd { options += ["--format", target.rawValue] }
            try run.mirror(target, options)
            // A switch in mid-flight.
            let mode = random.next() % 2 == 0 ? "background" : "write-blocking"
            try run.agent.tell(
                "qmp", "block-job-change",
                #"{"id": "disk", "type": "mirror", "copy-mode": "\#(mode)"}"#)
            usleep(UInt32.random(in: 0...300_000, using: &random))
            let answer = try run.end(completes: completes)
            usleep(100_000)
            let log = try guest.finish()
            let now = try run.contents()
            #expect(log.faultAfterKill(of: now, before: run.before) == nil)

            // What nobody writes any more is what both were at the instant.
            let frozen =
                completes
                ? try run.image(run.source, "raw")
                : try run.image(run.path(of: target), target == .qcow2 ? "qcow2" : "raw", server)
            let fault = log.fault(
                of: frozen, before: run.before, freezeMilliseconds: answer.instantMilliseconds)
            #expect(fault == nil, "\(fault ?? "")")
            #expect(answer.pivoted == completes)
            run.agent.stop(SIGTERM)
            #expect(run.agent.exitStatus == 0)
        }
    }

    @Test func afterAPivotTheNextIncrementIsWhole() throws {
        var random = Seed.generator("pivot and increment")
        let run = try MirrorRun(&random)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        let guest = try run.startGuest(&random)
        try run.mirror(.qcow2, ["--format", "qcow2"])
        _ = try run.end(completes: true)
        usleep(100_000)
        let log = try guest.finish()
        let pivoted = try run.contents()
        #expect(log.faultAfterKill(of: pivoted, before: run.before) == nil)
        let point = try run.agent.backUp("disk")
        #expect(point.level == "incremental" && point.reason == "bitmap")
        let restored = try run.agent.restore(point.id, to: run.directory.path("restored"))
        let current = try run.contents()
        #expect(restored == current)
        try run.restart(SIGTERM)
        let second = try run.agent.backUp("disk")
        #expect(second.reason == "bitmap" && second.dirtyBytes == 0)
    }

    /// The move of a disk: only what has changed since the last backup is copied, onto an overlay
    /// over that backup.
    @Test func anIncrementalMirrorOntoAnOverlayOverABackup() throws {
        var random = Seed.generator("incremental mirror")
        let run = try MirrorRun(&random)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        let point = try run.agent.backUp("disk")
        let guest = try run.startGuest(&random)
        usleep(50_000)
        let overlay = run.path(of: .qcow2)
        let vault = run.directory.path("vault")
        let folder = try #require(
            FileManager.default.contentsOfDirectory(atPath: vault).first { $0.hasPrefix("disk.") })
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
            "\(vault)/\(folder)/\(point.id).qcow2", overlay,
        ])
        try run.agent.tell(
            "mirror", "disk", overlay, "--existing", "--format", "qcow2", "--sync", "incremental",
            "--bitmap", "vault", "--wait")
        let answer = try run.end(completes: false)
        let log = try guest.finish()
        let frozen = try run.image(overlay, "qcow2")
        #expect(
            log.fault(
                of: frozen, before: run.before, freezeMilliseconds: answer.instantMilliseconds)
                == nil)
        try Tool.check(["qemu-img", "check", "-q", overlay])
    }

    /// Killed while it copies, while it is in step, and around its pivot: nothing acknowledged is
    /// lost, and the bitmaps are right.
    @Test func nothingIsLostWhenTheAgentIsKilled() throws {
        var random = Seed.generator("mirror and kill")
        let run = try MirrorRun(&random)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        var pivotCount = 0
        for round in 0..<6 * Self.roundCount {
            let before = try run.contents()
            let guest = try run.startGuest(&random)
            let path = run.directory.path("target\(round).qcow2")
            try run.agent.tell("mirror", "disk", path, "--sync", "full", "--format", "qcow2")
            if round % 3 > 0 { try run.waitUntilReady() }
            if round % 3 == 2 {
                usleep(UInt32.random(in: 0...50_000, using: &random))
                let command = try run.agent.begin("job", "complete", "disk")
                usleep(UInt32.random(in: 0...60_000, using: &random))
                run.agent.stop(SIGKILL)
                command.waitUntilExit()
            } else {
                usleep(UInt32.random(in: 0...80_000, using: &random))
                run.agent.stop(SIGKILL)
            }
            let log = try guest.waitForLoss()
            try run.startAgain()
            try run.giveUp()
            let after = try run.contents()
            let fault = log.faultAfterKill(of: after, before: before)
            #expect(fault == nil, "round \(round): \(fault ?? "")")
            if try run.top() == path { pivotCount += 1 }
            let point = try run.agent.backUp("disk")
            #expect(point.level == "incremental" && point.reason == "bitmap", "round \(round)")
            let restored = try run.agent.restore(point.id, to: run.directory.path("restored"))
            #expect(restored == after, "round \(round)")
        }
        print("\(pivotCount) pivots were complete when the agent was killed")
        run.agent.stop(SIGTERM)
        #expect(run.agent.exitStatus == 0)
    }

    @Test func aSnapshotUnderAGuest() throws {
        var random = Seed.generator("snapshot under a guest")
        let run = try MirrorRun(&random)
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        _ = try run.agent.backUp("disk")
        let guest = try run.startGuest(&random)
        for number in 0..<3 {
            usleep(60_000)
            try run.agent.tell("volume", "snapshot", "disk", run.directory.path("s\(number).qcow2"))
        }
        usleep(60_000)
        run.agent.stop(SIGKILL)
        let log = try guest.waitForLoss()
        try run.startAgain()
        let after = try run.contents()
        #expect(log.faultAfterKill(of: after, before: run.before) == nil)
        let point = try run.agent.backUp("disk")
        #expect(point.reason == "bitmap")
        let restored = try run.agent.restore(point.id, to: run.directory.path("restored"))
        #expect(restored == after)
    }
}

import Foundation
import TestSupport
import Testing

/// A snapshot and a mirror that begin at one instant: whatever a guest writes from then on is in both
/// overlays, and somebody else copies what was there before.
@Suite(.serialized) struct MirroredSnapshotTests {
    private let run: MirrorRun
    private let local: String
    private let remote: String
    private let copy: String

    init() throws {
        var random = Seed.generator("mirrored snapshot")
        run = try MirrorRun(&random)
        local = run.directory.path("local.qcow2")
        remote = run.directory.path("remote.qcow2")
        copy = run.directory.path("copy.raw")
    }

    /// Begins both, in a transaction.
    private func begin(_ mirror: String, copyMode: String) throws {
        let actions =
            #"{"type": "blockdev-snapshot-sync", "data": {"device": "disk", "#
            + #""snapshot-file": "\#(local)"}}, "#
            + #"{"type": "drive-mirror", "data": {"device": "disk", "target": "\#(remote)", "#
            + #""format": "qcow2", "copy-mode": "\#(copyMode)", "auto-dismiss": false, \#(mirror)}}"#
        try run.agent.tell("qmp", "transaction", #"{"actions": [\#(actions)]}"#)
    }

    /// The guest's volume as it is now, whose content is to be that of `log`.
    private func expectContents(_ log: GuestLog) throws {
        let now = try run.contents()
        #expect(log.faultAfterKill(of: now, before: run.before) == nil)
    }

    @Test(arguments: ["background", "write-blocking"])
    func bothOverlaysReceiveEveryWriteFromTheInstantOn(copyMode: String) throws {
        var random = Seed.generator("both overlays \(copyMode)")
        let guest = try run.startGuest(&random)
        usleep(50_000)
        // Over a base that is not there yet.
        try Tool.check([
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", copy, remote,
            "\(run.before.count)",
        ])
        try begin(#""sync": "top", "mode": "existing""#, copyMode: copyMode)
        try run.waitUntilReady()
        try Tool.check([
            "qemu-img", "convert", "-f", "raw", "-O", "raw", run.source, copy,
        ])
        let answer = try run.end(completes: false)
        usleep(50_000)
        let log = try guest.finish()
        #expect(try run.top() == local)
        // The mirror's end is the instant that the remote overlay shows.
        let frozen = try run.image(remote, "qcow2")
        let fault = log.fault(
            of: frozen, before: run.before, freezeMilliseconds: answer.instantMilliseconds)
        #expect(fault == nil, "\(fault ?? "")")
        try expectContents(log)
        run.agent.stop(SIGTERM)
        #expect(run.agent.exitStatus == 0)
        try Tool.check(["qemu-img", "check", "-q", remote])
        try Tool.check(["qemu-img", "check", "-q", local])
    }

    /// The switch: once the base has been copied, the guest goes on on the other side.
    @Test func theGuestGoesOnOnTheOtherSideOnceTheBaseIsCopied() throws {
        var random = Seed.generator("mirrored switch")
        let guest = try run.startGuest(&random)
        try Tool.check([
            "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", copy, remote,
            "\(run.before.count)",
        ])
        try begin(#""sync": "top", "mode": "existing""#, copyMode: "write-blocking")
        try run.waitUntilReady()
        // Without the base the switch fails, and the guest stays where it is.
        let early = try run.agent.run([
            "qmp", "transaction",
            #"{"actions": [{"type": "job-complete", "data": {"id": "disk"}}]}"#,
        ])
        #expect(early.status == 1 && early.errors.contains(copy), "\(early.errors)")
        #expect(try run.top() == local)
        #expect(try run.mirror().status == "ready")
        try Tool.check([
            "qemu-img", "convert", "-f", "raw", "-O", "raw", run.source, copy,
        ])
        let answer = try run.end(completes: true)
        #expect(answer.pivoted)
        usleep(50_000)
        let log = try guest.finish()
        #expect(try run.top() == remote)
        try expectContents(log)
        try run.restart(SIGKILL)
        try expectContents(log)
        run.agent.stop(SIGTERM)
        // A kill may leave clusters that nobody uses, and nothing worse.
        let check = try Tool.run(["qemu-img", "check", "-q", remote])
        #expect(check.status == 0 || check.status == 3)
    }

    /// An overlay that is made shares the images below.
    @Test func anOverlayThatIsMadeHasTheSameBase() throws {
        var random = Seed.generator("mirrored made")
        let guest = try run.startGuest(&random)
        try begin(#""sync": "top", "mode": "absolute-paths""#, copyMode: "background")
        try run.waitUntilReady()
        let answer = try run.end(completes: true)
        #expect(answer.pivoted)
        usleep(50_000)
        let log = try guest.finish()
        struct Volume: Decodable {
            struct Node: Decodable { let file: String }
            let nodes: [Node]
        }
        let text = try run.agent.tell("--json", "volume", "show", "disk")
        let volume = try JSONDecoder().decode(Volume.self, from: Data(text.utf8))
        #expect(volume.nodes.map(\.file) == [remote, run.source])
        try expectContents(log)
        try run.restart(SIGTERM)
        try expectContents(log)
        run.agent.stop(SIGTERM)
        try Tool.check(["qemu-img", "check", "-q", remote])
    }
}

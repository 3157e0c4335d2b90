import Foundation
import TestSupport
import Testing

/// Mirrors of each kind under a guest that never stops writing, in which now and then the guest, the
/// target or the agent is killed. What was acknowledged is never lost, and at the end source and
/// target are the same.
@Suite(.serialized) struct MirrorMishapTests {
    enum Kind: String, CaseIterable {
        case completed, cancelled, background, switched
        case writeBlocking = "write-blocking"
        /// From a bitmap, onto an overlay over the backup that it continues.
        case incremental
    }

    /// How often each is done, with other random choices: TIDEMARK_MIRROR_SEEDS, or 5.
    static var seedCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_MIRROR_SEEDS"].flatMap { Int($0) } ?? 5
    }

    @Test(arguments: Kind.allCases) func nothingIsLost(kind: Kind) throws {
        var random = Seed.generator("mirror mishaps \(kind)")
        var stories: [String: Int] = [:]
        for _ in 0..<Self.seedCount {
            let mishap = try MirrorMishap(kind, &random)
            do { try mishap.run(&random) } catch {
                Issue.record("\(mishap): \(error)")
            }
            stories["\(mishap)", default: 0] += 1
        }
        for (story, count) in stories.sorted(by: { $0.key < $1.key }) {
            print("\(count) × \(story)")
        }
    }
}

/// One mirror and what happens to it.
private struct MirrorMishap: CustomStringConvertible {
    enum Victim: String { case nobody, guest, target, agent }
    enum Moment: String, CaseIterable { case copying, ready, ending }

    let kind: MirrorMishapTests.Kind
    let target: MirrorTests.Target
    let victim: Victim
    let moment: Moment
    let completes: Bool
    private let lab: MirrorRun

    var description: String {
        "\(kind), to \(target), \(completes ? "completed" : "cancelled"): "
            + (victim == .nobody ? "nobody is killed" : "the \(victim) is killed while \(moment)")
    }

    init(_ kind: MirrorMishapTests.Kind, _ random: inout SplitMix64) throws {
        self.kind = kind
        completes =
            switch kind {
            case .completed: true
            case .cancelled, .incremental: false
            case .background, .switched, .writeBlocking: random.next() % 2 == 0
            }
        let victims: [Victim] =
            kind == .incremental
            ? [.nobody, .guest, .agent] : [.nobody, .guest, .target, .agent]
        victim = victims.randomElement(using: &random) ?? .nobody
        // What a volume has been moved to is its disk: who kills that loses it.
        let moments = victim == .target ? [.copying, .ready] : Moment.allCases
        moment = moments.randomElement(using: &random) ?? .ready
        target =
            switch (kind, victim) {
            case (.incremental, _): .qcow2
            case (_, .target): .nbd
            default: MirrorTests.Target.allCases.randomElement(using: &random) ?? .raw
            }
        lab = try MirrorRun(&random)
    }

    func run(_ random: inout SplitMix64) throws {
        // Before the guest: it would inherit the pipe whose end tells the guest to stop.
        var server = target == .nbd ? try lab.serveTarget() : nil
        defer { server?.stop() }
        var options = kind == .incremental ? try prepareOverlay() : ["--sync", "full"]
        let guest = try lab.startGuest(&random)
        var log: GuestLog?
        if target != .nbd { options += ["--format", target.rawValue] }
        options += ["--copy-mode", copyMode(&random)]
        try lab.startMirror(target, options)
        for now in [Moment.copying, .ready] {
            if now == .ready {
                try lab.waitUntilReady()
                if kind == .switched { try change(&random) }
            }
            guard now == moment, victim != .nobody else { continue }
            usleep(UInt32.random(in: 0...80_000, using: &random))
            switch victim {
            case .agent: return try killAgent(guest)
            case .target:
                server = try kill(server, guest, &random)
                if server == nil { return }
            case .guest: log = try guest.kill()
            case .nobody: break
            }
        }
        usleep(UInt32.random(in: 0...150_000, using: &random))
        if moment == .ending, victim == .agent {
            let command =
                completes
                ? try lab.agent.begin("job", "complete", "disk")
                : try lab.agent.begin("qmp", "block-job-cancel", #"{"device": "disk"}"#)
            usleep(UInt32.random(in: 0...60_000, using: &random))
            try killAgent(guest)
            return command.waitUntilExit()
        }
        if moment == .ending, victim == .guest { log = try guest.kill() }
        try end(guest, log, server)
    }

    private func copyMode(_ random: inout SplitMix64) -> String {
        switch kind {
        case .background: "background"
        case .writeBlocking: "write-blocking"
        default: random.next() % 2 == 0 ? "background" : "write-blocking"
        }
    }

    private func change(_ random: inout SplitMix64) throws {
        for _ in 0..<Int.random(in: 1...3, using: &random) {
            let mode = random.next() % 2 == 0 ? "background" : "write-blocking"
            try lab.agent.tell(
                "qmp", "block-job-change",
                #"{"id": "disk", "type": "mirror", "copy-mode": "\#(mode)"}"#)
            usleep(UInt32.random(in: 0...50_000, using: &random))
        }
    }

    private func prepareOverlay() throws -> [String] {
        let vault = lab.directory.path("vault")
        try lab.agent.tell("repo", "init", "vault", vault)
        let point = try lab.agent.backUp("disk")
        let folder = try #require(
            FileManager.default.contentsOfDirectory(atPath: vault).first { $0.hasPrefix("disk.") })
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b",
            "\(vault)/\(folder)/\(point.id).qcow2", lab.path(of: target),
        ])
        return ["--existing", "--sync", "incremental", "--bitmap", "vault"]
    }

    private func expect(_ fault: String?, _ what: String) {
        #expect(fault == nil, "\(self): \(what): \(fault ?? "")")
    }

    private func end(_ guest: Guest, _ known: GuestLog?, _ server: ServerProcess?) throws {
        let answer: MirrorRun.Answer
        do { answer = try lab.end(completes: completes) } catch let failure as Tool.Failure {
            // A server that was killed may have lost what it had not flushed.
            try #require(victim == .target && "\(failure)".contains("not flushed"), "\(failure)")
            return try abandon(guest)
        }
        usleep(50_000)
        let log = try known ?? guest.finish()
        let now = try lab.contents()
        expect(log.faultAfterKill(of: now, before: lab.before), "the volume")
        // What nobody writes any more is what both were at the instant.
        let frozen =
            completes
            ? try lab.image(lab.source, "raw")
            : try lab.image(lab.path(of: target), target == .qcow2 ? "qcow2" : "raw", server)
        expect(
            log.fault(
                of: frozen, before: lab.before, freezeMilliseconds: answer.instantMilliseconds,
                wasKilled: known != nil),
            completes ? "the source" : "the target")
        #expect(answer.pivoted == completes, "\(self)")
        if known != nil { #expect(frozen == now, "\(self): nobody has written since") }
        lab.agent.stop(SIGTERM)
        #expect(lab.agent.exitStatus == 0, "\(self)")
        if target == .qcow2 { try Tool.check(["qemu-img", "check", "-q", lab.path(of: target)]) }
    }

    private func killAgent(_ guest: Guest) throws {
        lab.agent.stop(SIGKILL)
        let log = try guest.waitForLoss()
        try lab.startAgain()
        try lab.giveUp()
        expect(log.faultAfterKill(of: try lab.contents(), before: lab.before), "the volume")
        lab.agent.stop(SIGTERM)
        #expect(lab.agent.exitStatus == 0, "\(self)")
    }

    /// The guest notices nothing. Either the target comes back, and the mirror goes on with it unless
    /// it cannot know what the target has; or the mirror is given up, and nil is returned.
    private func kill(
        _ server: ServerProcess?, _ guest: Guest, _ random: inout SplitMix64
    ) throws -> ServerProcess? {
        server?.stop()
        usleep(UInt32.random(in: 0...200_000, using: &random))
        if random.next() % 2 == 0 {
            let again = try lab.serveTarget(isNew: false)
            if try isReadyAgain() { return again }
        }
        usleep(50_000)
        try abandon(guest)
        return nil
    }

    private func abandon(_ guest: Guest) throws {
        try lab.giveUp()
        let log = try guest.finish()
        expect(log.faultAfterKill(of: try lab.contents(), before: lab.before), "the volume")
        #expect(try lab.top() == lab.source, "\(self)")
        lab.agent.stop(SIGTERM)
        #expect(lab.agent.exitStatus == 0, "\(self)")
    }

    private func isReadyAgain() throws -> Bool {
        let end = Date(timeIntervalSinceNow: 60)
        while true {
            let job = try lab.mirror()
            if job.status == "ready" { return true }
            if job.status == "concluded" { return false }
            try #require(Date() < end, "\(self): it is \(job.status)")
            usleep(20_000)
        }
    }
}

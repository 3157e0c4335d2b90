import Foundation
import TestSupport
import Testing

/// The agent is killed at random moments of all that it does, with a guest writing but for some;
/// nothing that was acknowledged is lost, and every increment after it restores to what the disk
/// holds.
@Suite(.serialized) struct KillTests {
    /// How many kills: TIDEMARK_KILL_ROUNDS, or 20.
    static var roundCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_KILL_ROUNDS"].flatMap { Int($0) } ?? 20
    }

    @Test func afterEveryKillTheNextIncrementIsWhole() throws {
        var random = Seed.generator("kill -9")
        let run = try KillRun(lengthBytes: (20 << 20) + 4321)
        for round in 0..<Self.roundCount {
            if round % 4 == 0 { try run.backUpUnderLoadThenAtRest(round, &random) }
            let moments = KillMoment.allCases
            try run.kill(at: moments[round % moments.count], round, &random)
        }
        run.agent.stop(SIGTERM)
        #expect(run.agent.exitStatus == 0)
        // Else the kills came too late for what they were to interrupt.
        #expect(run.interruptedCount > 0)
    }
}

/// What the agent is doing when it is killed.
private enum KillMoment: CaseIterable {
    case idle, load, freeze, backup, promotion, restore, merge, growth, cut

    /// A cut takes place only without clients.
    var hasGuest: Bool { self != .idle && self != .cut }
}

private final class KillRun {
    let directory: TemporaryDirectory
    /// The length at first, of which cuts leave half at least.
    private let lengthBytes: Int
    private(set) var agent: AgentProcess
    /// How many commands were under way when the agent was killed.
    private(set) var interruptedCount = 0
    private var guestCount: UInt32 = 0

    init(lengthBytes: Int) throws {
        directory = try TemporaryDirectory()
        self.lengthBytes = lengthBytes
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "\(lengthBytes)")
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        _ = try agent.backUp("disk")
        try agent.tell("bitmap", "add", "disk", "source")
        try agent.tell("bitmap", "add", "disk", "target")
    }

    /// Two backups in one life of the agent, the first in the middle of writes: what was written
    /// around its freeze must be in the second.
    func backUpUnderLoadThenAtRest(
        _ round: Int, _ random: inout SplitMix64
    ) throws {
        let guest = try startGuest(&random)
        usleep(UInt32.random(in: 20_000...200_000, using: &random))
        // From time to time a full, so that chains stay short.
        _ = try agent.backUp("disk", "--level", round % 10 == 0 ? "full" : "incremental")
        usleep(UInt32.random(in: 0...100_000, using: &random))
        _ = try guest.finish()
        try checkIncrement("round \(round), after a backup under load")
    }

    func kill(at moment: KillMoment, _ round: Int, _ random: inout SplitMix64) throws {
        let before = try contents()
        let guest = moment.hasGuest ? try startGuest(&random) : nil
        usleep(UInt32.random(in: 10_000...100_000, using: &random))
        // Of a moment that resizes; else nothing is told of it.
        let newLength = self.newLength(moment, of: before.count, &random)
        let command = try interrupt(moment, newLength, &random)
        if command?.isRunning == true { interruptedCount += 1 }
        agent.stop(SIGKILL)
        let log = try guest?.waitForLoss()
        command?.waitUntilExit()

        agent = try AgentProcess(state: directory.path("state"))
        let after = try contents()
        let occasion = "round \(round), killed at \(moment)"
        #expect(
            [before.count, newLength].contains(after.count), "\(occasion): its length, \(newLength)"
        )
        let kept = min(before.count, after.count)
        if let log {
            let fault = log.faultAfterKill(of: Array(after.prefix(kept)), before: before)
            #expect(fault == nil, "\(occasion): what the disk holds after the kill")
        } else {
            #expect(
                after.prefix(kept) == before.prefix(kept),
                "\(occasion): what the disk holds after the kill")
        }
        #expect(after.dropFirst(kept).allSatisfy { $0 == 0 }, "\(occasion): what it grew by")
        try checkRestored(occasion)
        try checkIncrement(occasion, level: after.count == before.count ? "incremental" : "auto")
    }

    /// The length that a resize at that moment asks for; the present one if there is none.
    private func newLength(
        _ moment: KillMoment, of lengthBytes: Int, _ random: inout SplitMix64
    ) -> Int {
        switch moment {
        case .growth: lengthBytes + Int.random(in: 1...4 << 20, using: &random)
        case .cut:
            Int.random(in: min(self.lengthBytes / 2, lengthBytes)...lengthBytes, using: &random)
        default: lengthBytes
        }
    }

    /// Starts what is to be interrupted and waits for a moment of it; returns its command.
    private func interrupt(
        _ moment: KillMoment, _ newLength: Int, _ random: inout SplitMix64
    ) throws -> Process? {
        var command: Process?
        var pauseMicroseconds: UInt32 = 50_000
        switch moment {
        case .idle, .load: break
        case .freeze:
            command = try agent.begin("backup", "disk", "--repo", "vault")
            pauseMicroseconds = 60_000
        case .backup:
            command = try agent.begin("backup", "disk", "--repo", "vault", "--limit", "8M")
            pauseMicroseconds = 400_000
        case .promotion:
            let points = try pointCount()
            command = try agent.begin("backup", "disk", "--repo", "vault")
            // The manifest is there: the bitmap's promotion is next.
            while try pointCount() == points, command?.isRunning == true { usleep(100) }
            pauseMicroseconds = 3000
        case .restore:
            command = try agent.begin(
                "restore", "disk@latest", restoredPath, "--format", "raw")
            pauseMicroseconds = 80_000
        case .merge:
            command = try agent.begin("bitmap", "merge", "disk", "target", "source")
            pauseMicroseconds = 30_000
        case .growth:
            command = try agent.begin("volume", "resize", "disk", "\(newLength)")
            pauseMicroseconds = 40_000
        case .cut:
            command = try agent.begin("volume", "resize", "disk", "\(newLength)", "--shrink")
            pauseMicroseconds = 40_000
        }
        usleep(UInt32.random(in: 0...pauseMicroseconds, using: &random))
        return command
    }

    private var restoredPath: String { directory.path("interrupted") }

    /// An image under the name of a restore is a whole one.
    private func checkRestored(_ occasion: String) throws {
        defer { unlink(restoredPath) }
        guard let restored = try? readFile(restoredPath) else { return }
        let again = try agent.restore("disk@latest", to: directory.path("restored"))
        #expect(restored == again, "\(occasion): the image that was restored")
    }

    /// How many manifests there are; the description of the repository counts too.
    private func pointCount() throws -> Int {
        try FileManager.default.subpathsOfDirectory(atPath: directory.path("vault"))
            .count { $0.hasSuffix(".json") }
    }

    /// Makes an increment with nobody writing, and compares its restore with the disk. After a
    /// resize "auto" is one, by comparison.
    private func checkIncrement(_ occasion: String, level: String = "incremental") throws {
        let point = try agent.backUp("disk", "--level", level)
        let restored = try agent.restore(point.id, to: directory.path("restored"))
        #expect(restored == (try contents()), "\(occasion): point \(point.id) and the disk differ")
        let verified = try agent.run(["verify", point.id])
        #expect(verified.status == 0, "\(occasion): \(verified.errors)")
    }

    private func startGuest(_ random: inout SplitMix64) throws -> Guest {
        guestCount += 1
        return try Guest(
            uri: agent.uri("disk"), seed: UInt32.random(in: 0...0x7FFF_FFFF, using: &random),
            log: directory.path("guest-\(guestCount).log"))
    }

    private func contents() throws -> [UInt8] {
        defer { unlink(directory.path("copy")) }
        return try agent.copy("disk", to: directory.path("copy"))
    }
}

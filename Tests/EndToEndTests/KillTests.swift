import Foundation
import TestSupport
import Testing

/// The agent is killed at random moments under random writes; nothing that was acknowledged is
/// lost, and every increment after it restores to what the disk holds.
@Suite(.serialized) struct KillTests {
    /// Rounds of each run: TIDEMARK_KILL_ROUNDS, or 50.
    static var roundCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_KILL_ROUNDS"].flatMap { Int($0) } ?? 50
    }

    @Test func afterEveryKillTheNextIncrementIsWhole() throws {
        var random = Seed.generator("kill -9")
        let run = try KillRun(lengthBytes: (20 << 20) + 4321)
        for round in 0..<Self.roundCount {
            try run.backUpUnderLoadThenAtRest(round, &random)
            try run.killUnderLoad(round, duringBackup: round % 2 == 0, &random)
        }
        run.agent.stop(SIGTERM)
        #expect(run.agent.exitStatus == 0)
        #expect(run.killedBackupCount > 0)
    }
}

private final class KillRun {
    let directory: TemporaryDirectory
    let lengthBytes: Int
    private(set) var agent: AgentProcess
    /// How many backups were under way when the agent was killed.
    private(set) var killedBackupCount = 0
    private var guestCount: UInt32 = 0

    init(lengthBytes: Int) throws {
        directory = try TemporaryDirectory()
        self.lengthBytes = lengthBytes
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "\(lengthBytes)")
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        _ = try agent.backUp("disk")
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

    func killUnderLoad(
        _ round: Int, duringBackup: Bool, _ random: inout SplitMix64
    ) throws {
        let before = try contents()
        let guest = try startGuest(&random)
        usleep(UInt32.random(in: 10_000...200_000, using: &random))
        var backup: Process?
        if duringBackup {
            backup = try agent.begin("backup", "disk", "--repo", "vault", "--limit", "8M")
            usleep(UInt32.random(in: 0...400_000, using: &random))
            if backup?.isRunning == true { killedBackupCount += 1 }
        }
        usleep(UInt32.random(in: 0...50_000, using: &random))
        agent.stop(SIGKILL)
        let log = try guest.waitForLoss()
        backup?.waitUntilExit()

        agent = try AgentProcess(state: directory.path("state"))
        let fault = log.faultAfterKill(of: try contents(), before: before)
        #expect(fault == nil, "round \(round): what the disk holds after the kill")
        try checkIncrement("round \(round), after the kill")
    }

    /// Makes an increment with nobody writing, and compares its restore with the disk.
    private func checkIncrement(_ occasion: String) throws {
        let point = try agent.backUp("disk", "--level", "incremental")
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

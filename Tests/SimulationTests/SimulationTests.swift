import Foundation
import TestSupport
import Testing

/// Agents under a random workload lose their power or are killed at random moments; what they
/// leave is opened by another, and nothing is lost.
@Suite(.serialized) struct SimulationTests {
    /// Seeds of a run: TIDEMARK_SIMULATION_SEEDS, or one of each scenario.
    static var seedCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_SIMULATION_SEEDS"].flatMap { Int($0) }
            ?? Scenario.allCases.count
    }

    /// The rule that the agents break, to see which seeds notice: TIDEMARK_MUTANT.
    private static let mutant = ProcessInfo.processInfo.environment["TIDEMARK_MUTANT"]

    @Test func noCrashLosesAnything() {
        // The first seed that TIDEMARK_SEED names, so that a finding can be had again with it.
        let first =
            ProcessInfo.processInfo.environment["TIDEMARK_SEED"] == nil
            ? Seed.current >> 1 : Seed.current
        var crashes: [Crash] = []
        for seed in first..<first + UInt64(Self.seedCount) {
            let simulation = Simulation(
                seed: seed, mutant: Self.mutant, didCrash: { crashes.append($0) })
            let findings = simulation.run()
            #expect(findings.isEmpty, "TIDEMARK_SEED=\(seed): \(findings)")
        }
        let lossCount = crashes.count { $0 == .powerLoss }
        print(
            "\(Self.seedCount) seeds from \(first): \(lossCount) power losses, "
                + "\(crashes.count - lossCount) kills")
    }
}

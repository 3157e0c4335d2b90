import Foundation
import TestSupport
import Testing

/// Agents under a random workload lose their power or are killed at random moments; what they
/// leave is opened by another, and nothing is lost.
@Suite(.serialized) struct SimulationTests {
    /// Seeds of a run: TIDEMARK_SIMULATION_SEEDS, or as many as make 50 crashes.
    static var seedCount: Int {
        ProcessInfo.processInfo.environment["TIDEMARK_SIMULATION_SEEDS"].flatMap { Int($0) } ?? 13
    }

    @Test func noCrashLosesAnything() {
        // The first seed that TIDEMARK_SEED names, so that a finding can be had again with it.
        let first =
            ProcessInfo.processInfo.environment["TIDEMARK_SEED"] == nil
            ? Seed.current >> 1 : Seed.current
        for seed in first..<first + UInt64(Self.seedCount) {
            let findings = Simulation(seed: seed).run()
            #expect(findings.isEmpty, "TIDEMARK_SEED=\(seed): \(findings)")
        }
    }
}

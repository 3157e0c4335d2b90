import BlockCore
import Foundation
import TestSupport
import Testing

/// With each rule broken in its turn, the simulation finds out: it would notice.
@Suite(.serialized) struct MutantTests {
    /// What notices which broken rule the soonest.
    static let witnesses: [(mutant: Mutant, scenario: Scenario)] = [
        (.writeWithoutAnnouncement, .slowCommit),
        (.trustAnnouncementBeforeCommit, .slowCommit),
        (.ignoreOverlap, .overlap),
        (.writeWithoutKeeping, .slowKeep),
        (.keepAfterWrite, .slowKeep),
        (.settleBeforeKeeping, .slowKeep),
        (.markBeforeWriteOnly, .freeze),
        (.forgetFailedWrite, .failedWrite),
        (.flushNothing, .load),
        (.forgetLogAfterCrash, .load),
        (.freezeWithoutDrain, .freeze),
        (.freezeWithoutChunks, .incremental),
        (.disableWithoutChunks, .bitmaps),
        (.mergeWithoutChunks, .merge),
        (.dropSuccessorOnFailure, .failedBackup),
        (.dropFrozenOnFailure, .failedBackup),
        (.promoteWithoutSourceFlush, .incremental),
        (.trustChangedImage, .stranger),
    ]

    /// Seeds of one scenario that a broken rule may survive.
    private static let patience = 24

    @Test(arguments: witnesses)
    func aBrokenRuleIsNoticed(_ mutant: Mutant, _ scenario: Scenario) {
        let count = Scenario.allCases.count
        let seeds = (0..<Self.patience).map { UInt64($0 * count + scenario.rawValue) }
        #expect(Self.killer(of: mutant, seeds) != nil, "\(mutant) survives the seeds \(seeds)")
    }

    /// Seeds for each rule, whatever their scenarios: TIDEMARK_SIMULATION_MUTANTS, else the test
    /// above is enough.
    static let searchedSeedCount = ProcessInfo.processInfo
        .environment["TIDEMARK_SIMULATION_MUTANTS"].flatMap { UInt64($0) }

    @Test(
        .enabled(if: searchedSeedCount != nil, "a long search: TIDEMARK_SIMULATION_MUTANTS=50"))
    func everyBrokenRuleIsNoticed() {
        for (mutant, _) in Self.witnesses {
            let seed = Self.killer(of: mutant, Array(0..<(Self.searchedSeedCount ?? 0)))
            print("\(mutant): \(seed.map { "noticed by seed \($0)" } ?? "SURVIVES")")
            #expect(seed != nil, "\(mutant) survives")
        }
    }

    private static func killer(of mutant: Mutant, _ seeds: [UInt64]) -> UInt64? {
        seeds.first { !Simulation(seed: $0, mutant: "\(mutant)").run().isEmpty }
    }
}

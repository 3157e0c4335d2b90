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
        (.markAfterReply, .freeze),
        (.discardWithoutMarking, .zeroes),
        (.flushNothing, .load),
        (.retireWithoutClosing, .retirement),
        (.retireWithoutDrain, .retirement),
        (.retireWithoutChunks, .retirement),
        (.forgetLogAfterCrash, .load),
        (.emptyLogAtOpen, .twoLosses),
        (.freezeWithoutDrain, .freeze),
        (.freezeWithoutChunks, .incremental),
        (.clearAtFreeze, .failedBackup),
        (.disableWithoutChunks, .bitmaps),
        (.mergeWithoutChunks, .merge),
        (.dropSuccessorOnFailure, .failedBackup),
        (.dropFrozenOnFailure, .failedBackup),
        (.promoteWithoutSourceFlush, .incremental),
        (.flushBeforeFreeze, .freeze),
        (.copyWithoutClaim, .full),
        (.dropZeroes, .zeroes),
        (.growWithoutMarking, .resize),
        (.growOverRemnant, .resize),
        (.trustChangedImage, .stranger),
        (.trustProcessAfterPowerLoss, .process),
    ]

    /// Seeds of one scenario that a broken rule may survive.
    private static let patience = 24

    /// How many seeds to search instead, whatever their scenarios: TIDEMARK_SIMULATION_MUTANTS.
    private static let searchedSeedCount = ProcessInfo.processInfo
        .environment["TIDEMARK_SIMULATION_MUTANTS"].flatMap { UInt64($0) }

    @Test(arguments: witnesses)
    func aBrokenRuleIsNoticed(_ mutant: Mutant, _ scenario: Scenario) {
        let count = Scenario.allCases.count
        let seeds =
            Self.searchedSeedCount.map { Array(0..<$0) }
            ?? (0..<Self.patience).map { UInt64($0 * count + scenario.rawValue) }
        let seed = Self.killer(of: mutant, seeds)
        #expect(seed != nil, "\(mutant) survives the seeds \(seeds)")
        if let seed { print("\(mutant): noticed by seed \(seed)") }
    }

    private static func killer(of mutant: Mutant, _ seeds: [UInt64]) -> UInt64? {
        seeds.first { !Simulation(seed: $0, mutant: "\(mutant)").run().isEmpty }
    }
}

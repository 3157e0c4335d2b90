import Foundation
import TestSupport
import Testing

/// The simulation itself: what it records, and what it makes of that.
@Suite(.serialized) struct JournalTests {
    /// In what it does to catalog and images before its first stop. New each time are names, times
    /// and process ids, the order among the workers of a backup's copy, when the copy of the catalog
    /// is made behind a backup, and how far SQLite comes with tidying up while the process ends.
    @Test(arguments: [Scenario.load, .freeze, .failedWrite, .merge, .retirement])
    func oneSeedMakesOneRun(_ scenario: Scenario) throws {
        let runs = try (0..<2).map { _ in
            let workload = try Workload(seed: 7, scenario: scenario, mutant: nil)
            try workload.run()
            let journal = try FileJournal(
                path: workload.machine.journalPath, root: workload.machine.root)
            return journal.records.prefix { !journal.isNote("stop", $0) }.filter {
                $0.path.hasPrefix("state/") && !$0.path.hasSuffix("agent.lock")
                    && !$0.path.contains(".tidemark-catalog-copy-")
            }.map { journal.shape(of: $0) }
        }
        let difference = zip(runs[0], runs[1]).enumerated().first { $1.0 != $1.1 }
        #expect(
            difference == nil && runs[0].count == runs[1].count,
            "\(runs.map(\.count)) records, first different: \("\(difference as Any)")")
    }

    /// A file's sync makes its content durable, its directory's its name; nothing else does.
    @Test func aPowerLossKeepsWhatWasSynced() throws {
        let base = try recordedFiles()
        var random = Seed.generator("power loss")
        var outcomes: Set<String> = []
        for _ in 0..<200 {
            let state = Crash.powerLoss.state(
                of: base.journal, on: base.state, cut: base.journal.records.count, &random)
            let kept = try #require(state.files["old"], "a file that was there before")
            #expect(kept.bytes.prefix(512).allSatisfy { $0 == 1 }, "what was synced")
            let written = kept.bytes.dropFirst(512).first.map { $0 == 2 ? "written" : "torn" }
            outcomes.insert("\(written ?? "short") \(state.files["new"] == nil ? "-" : "new")")
        }
        #expect(outcomes == ["short -", "short new", "written -", "written new"])
    }

    private func recordedFiles() throws -> (journal: FileJournal, state: DiskState) {
        let machine = try Machine()
        var state = DiskState()
        state.files["old"] = DiskState.File(inode: 1, bytes: [], modifiedNanoseconds: 0)
        let notes = try NoteWriter(journal: machine.journalPath)
        notes.record(.write, [UInt8](repeating: 1, count: 512), inode: 1)
        notes.record(.sync, inode: 1)
        notes.record(.write, [UInt8](repeating: 2, count: 512), inode: 1, offset: 512)
        notes.record(.create, inode: 2, path: "\(machine.root)/new")
        return (try FileJournal(path: machine.journalPath, root: machine.root), state)
    }
}

import Foundation
import TestSupport

/// Runs one seed: a workload, and crashes at some moments of it.
struct Simulation {
    let seed: UInt64
    var crashCount = 4
    /// How many of them are where a broken rule would show, in a scenario that knows where.
    private let decisiveCount = 2
    var mutant: String?
    /// Told of each crash that was looked at.
    var didCrash: (Crash) -> Void = { _ in }

    /// A run that did not go as it should.
    struct Finding: CustomStringConvertible {
        let description: String
    }

    var scenario: Scenario {
        Scenario(rawValue: Int(seed % UInt64(Scenario.allCases.count)))!
    }

    /// What is wrong; empty if nothing is.
    func run() -> [Finding] {
        var random = SplitMix64(seed: seed ^ 0x5EED)
        let workload: Workload
        do {
            workload = try Workload(seed: seed, scenario: scenario, mutant: mutant)
            try workload.run()
        } catch {
            return [finding("\(error)")]
        }
        do {
            let journal = try FileJournal(
                path: workload.machine.journalPath, root: workload.machine.root)
            if let folder = ProcessInfo.processInfo.environment["TIDEMARK_SIMULATION_KEEP"] {
                try writeFile("\(folder)/\(seed).journal", journal.bytes)
            }
            if let difference = try journalGap(journal, workload) {
                return [finding("the journal does not say all: \(difference)")]
            }
            let rewriter = try DiskRewriter(
                root: workload.machine.root,
                inodes: workload.base.inodes.union(journal.records.map(\.inode)))
            var findings: [Finding] = []
            for index in 0..<crashCount {
                let windows = index < decisiveCount ? workload.decisive : []
                findings += try crash(workload, journal, rewriter, decisive: windows, &random)
                if !findings.isEmpty { break }
            }
            return findings
        } catch {
            return [finding("\(error)")]
        }
    }

    /// One crash at a random record, and what is wrong after it.
    private func crash(
        _ workload: Workload, _ journal: FileJournal, _ rewriter: DiskRewriter,
        decisive: [Range<Moment>], _ random: inout SplitMix64
    ) throws -> [Finding] {
        let cut = place(in: journal, workload, decisive, &random)
        let crash: Crash = Int.random(in: 0..<4, using: &random) == 0 ? .kill : .powerLoss
        let now = workload.firstNote + journal.noteCount(before: cut)
        try workload.machine.setBoot(workload.boot + (crash == .powerLoss ? 1 : 0))
        try rewriter.apply(crash.state(of: journal, on: workload.base, cut: cut, &random))
        let check = CrashCheck(workload, now: now, isPowerLoss: crash == .powerLoss)
        let place = "\(crash) before record \(cut) of \(journal.records.count), note \(now)"
        didCrash(crash)
        do {
            try check.run()
        } catch {
            // The agent that met it knows more than what its client was told.
            let path = workload.machine.logPath
            let log = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
            return [finding("\(place): \(error)\n\(log)")]
                + check.faults.map { finding("\(place): \($0)") }
        }
        return check.faults.map { finding("\(place): \($0)") }
    }

    /// Where the crash is: in one of the `decisive` windows if there are any, else mostly where the
    /// agent was in the middle of something.
    private func place(
        in journal: FileJournal, _ workload: Workload, _ decisive: [Range<Moment>],
        _ random: inout SplitMix64
    ) -> Int {
        let windows = (decisive.isEmpty ? workload.windows : decisive)
            .map { $0.clamped(to: workload.firstNote..<workload.notes.count) }
            .filter { !$0.isEmpty }
        guard !decisive.isEmpty || Int.random(in: 0..<5, using: &random) > 0,
            let window = windows.randomElement(using: &random)
        else { return Int.random(in: 0...journal.records.count, using: &random) }
        let first = journal.notes[window.lowerBound - workload.firstNote]
        let end = window.upperBound - workload.firstNote
        let last = end < journal.notes.count ? journal.notes[end] : journal.records.count
        return Int.random(in: first...last, using: &random)
    }

    /// Whether the files are what the journal says that they are: then it missed nothing.
    private func journalGap(_ journal: FileJournal, _ workload: Workload) throws -> String? {
        var random = SplitMix64(seed: 0)
        return Crash.kill.state(
            of: journal, on: workload.base, cut: journal.records.count, &random
        ).difference(from: try DiskState(readingFrom: workload.machine.root))
    }

    private func finding(_ text: String) -> Finding {
        Finding(
            description: "seed \(seed), scenario \(scenario)"
                + (mutant.map { ", mutant \($0)" } ?? "") + ": \(text)")
    }
}

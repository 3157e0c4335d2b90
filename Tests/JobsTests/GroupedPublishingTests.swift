import BlockCore
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Backups that are to succeed together, of which one cannot publish its point.
@Suite struct GroupedPublishingTests {
    private func body(_ lab: BackupLab) -> BackupBody {
        BackupBody(
            waitsWithPoints: true,
            open: { () async throws(BlockError) in lab.backup() }, finish: { _ in })
    }

    /// Both jobs, waiting with their points; that of `first` publishes first.
    private func pending(_ first: BackupLab, _ second: BackupLab) async throws -> [Job] {
        let transaction = first.jobs.newTransaction()
        var jobs: [Job] = []
        // The newest comes first.
        for (lab, id) in [(second, "second"), (first, "first")] {
            jobs.append(
                try await first.jobs.create(
                    JobOptions(id: id, type: .backup, autoFinalize: false, autoDismiss: false),
                    body(lab), in: transaction))
        }
        for job in jobs { await first.jobs.begin(job) }
        try await JobLab.until("the points") { jobs.allSatisfy { $0.status == .pending } }
        return jobs
    }

    @Test(arguments: [true, false])
    func noneStandsIfOneCannotBePublished(publishedFirst: Bool) async throws {
        let (good, bad) = (try await BackupLab(), try await BackupLab())
        for lab in [good, bad] {
            try await lab.makePoint()
            try await lab.volume.write(at: 70_000, from: .holding([1, 2, 3]))
        }
        let jobs = publishedFirst ? try await pending(good, bad) : try await pending(bad, good)
        bad.files.fail(number: 1, only: .rename, lasting: true)
        try await (publishedFirst ? good : bad).jobs.finalize("first")
        #expect(!bad.files.failed.isEmpty)
        bad.files.heal()
        for job in jobs { #expect(job.status == .concluded && job.error != nil) }
        for lab in [good, bad] {
            #expect(try await lab.points().count == 1)
            #expect(lab.volume.frozenBitmaps().isEmpty)
            // The bitmap has all that it had, and the next point holds it.
            let next = try await lab.makePoint()
            #expect(next.reason == .bitmap)
            try await lab.expectCurrent(next.point)
        }
    }

    @Test func allStandIfAllCanBePublished() async throws {
        let (one, other) = (try await BackupLab(), try await BackupLab())
        let jobs = try await pending(one, other)
        try await one.jobs.finalize("first")
        for job in jobs { #expect(job.error == nil && job.status == .concluded) }
        for lab in [one, other] {
            #expect(try await lab.points().count == 1)
            #expect(lab.volume.frozenBitmaps().isEmpty)
            let next = try await lab.makePoint()
            #expect(next.reason == .bitmap)
        }
    }

    /// What depends on a point keeps it.
    @Test func aPointThatIsNeededIsNotTakenBack() async throws {
        let lab = try await BackupLab()
        let parent = try await lab.makePoint()
        try await lab.volume.write(at: 0, from: .holding([1]))
        let child = try await lab.makePoint()
        let repository = lab.repository.repository
        await #expect(throws: BlockError.self) { try await repository.withdraw(parent) }
        #expect(try await lab.points().count == 2)
        try await repository.withdraw(child)
        #expect(try await lab.points() == [parent.point])
    }
}

import BlockCore
import Foundation
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Real jobs, steered while they run.
@Suite struct SteeredBackupTests {
    private static let lengthBytes: UInt64 = 8 << 20

    private func lab() async throws -> BackupLab {
        let lab = try await BackupLab(lengthBytes: Self.lengthBytes)
        var random = Seed.generator("steered")
        let bytes = random.bytes(Int(Self.lengthBytes))
        try await lab.volume.write(at: 0, from: .holding(bytes))
        return lab
    }

    private func point(of job: Job) throws -> PointID {
        guard case .backup(let points, let failures)? = job.result, failures.isEmpty else {
            throw BlockError(.invalid, "back up", on: "test", detail: job.error)
        }
        return try #require(points.first.flatMap { PointID($0.pointID) })
    }

    @Test func aPausedBackupStandsStillWhileTheGuestWritesOn() async throws {
        let lab = try await lab()
        let before = try await lab.volume.bytes(at: 0, Int(Self.lengthBytes))
        let job = try await lab.start(lab.backup(.full), speedBytes: 4 << 20)
        try await JobLab.until("the first bytes") { job.progress.currentBytes > 0 }
        try await lab.jobs.pause(job.id)
        try await JobLab.until("the pause") { job.status == .paused }
        let progress = job.progress.currentBytes
        #expect(progress < Self.lengthBytes)
        try await lab.volume.writeZeroes(
            ByteRange(offset: 0, lengthBytes: Self.lengthBytes), mayUnmap: true)
        try await Task.sleep(for: .milliseconds(50))
        #expect(job.progress.currentBytes == progress && job.status == .paused)
        try await lab.jobs.setSpeed(0, of: job.id)
        try await lab.jobs.resume(job.id)
        await job.wait()
        let content = try await lab.content(of: try point(of: job))
        #expect(content.firstDifference(from: before) == nil)
    }

    @Test func aBackupThatCrawlsIsSpedUp() async throws {
        let lab = try await lab()
        let job = try await lab.start(lab.backup(.full), speedBytes: 1)
        try await JobLab.until("the first bytes") { job.progress.currentBytes > 0 }
        try await Task.sleep(for: .milliseconds(50))
        #expect(job.status == .running && job.progress.currentBytes < Self.lengthBytes)
        try await lab.jobs.setSpeed(0, of: job.id)
        await job.wait()
        try await lab.expectCurrent(try point(of: job))
    }

    /// A source that fails twice, under each policy.
    @Test func aSourceErrorIsTreatedByThePolicy() async throws {
        for policy in [ErrorPolicy.report, .stop, .ignore] {
            let lab = try await lab()
            lab.disk.fail(.read, number: 2)
            let job = try await lab.jobs.start(
                JobOptions(type: .backup, autoDismiss: false, onSourceError: policy),
                lab.backup(.full).run)
            if policy == .stop {
                try await JobLab.until("the stop") { job.status == .paused }
                #expect(job.ioStatus == .failed && job.isPaused)
                try await lab.jobs.resume(job.id)
            }
            await job.wait()
            #expect((job.error == nil) == (policy != .report), "\(policy): \(job.error ?? "")")
            if policy != .report { try await lab.expectCurrent(try point(of: job)) }
            #expect(lab.volume.frozenBitmaps().isEmpty)
        }
    }

    /// A repository that is full, or broken, for a moment.
    @Test func aTargetErrorIsTreatedByThePolicy() async throws {
        let table: [(ErrorPolicy, Int32, JobIOStatus?)] = [
            (.report, ENOSPC, nil), (.enospc, EIO, nil), (.enospc, ENOSPC, .nospace),
            (.stop, EIO, .failed),
        ]
        for (policy, errno, stop) in table {
            for compression in [nil, PointCompression.zstd] {
                let lab = try await lab()
                let backup = lab.backup(.full, compression: compression)
                lab.files.fail(number: 3, only: .write, lasting: true, errno: errno)
                let job = try await lab.jobs.start(
                    JobOptions(type: .backup, autoDismiss: false, onTargetError: policy),
                    backup.run)
                if let stop {
                    try await JobLab.until("the stop") { job.status == .paused }
                    #expect(job.ioStatus == stop)
                    lab.files.heal()
                    try await lab.jobs.resume(job.id)
                }
                await job.wait()
                #expect((job.error == nil) == (stop != nil), "\(policy): \(job.error ?? "")")
                if stop != nil { try await lab.expectCurrent(try point(of: job)) }
                #expect(lab.volume.frozenBitmaps().isEmpty)
            }
        }
    }

    @Test func aVerificationIsPausedSlowedAndGoesOn() async throws {
        let lab = try await lab()
        let made = try await lab.makePoint(.full)
        let job = try await lab.jobs.start(
            JobOptions(type: .verify, autoDismiss: false, speedBytes: 1),
            VerifyJob(points: [(lab.repository, made.point)]).run)
        try await JobLab.until("the first bytes") { job.progress.currentBytes > 0 }
        try await lab.jobs.pause(job.id)
        try await JobLab.until("the pause") { job.status == .paused }
        try await lab.jobs.resume(job.id)
        try await Task.sleep(for: .milliseconds(20))
        #expect(job.progress.currentBytes < Self.lengthBytes)
        try await lab.jobs.setSpeed(0, of: job.id)
        await job.wait()
        guard case .verify(let outcomes)? = job.result else {
            Issue.record("no result: \(job.error ?? "")")
            return
        }
        #expect(outcomes.count == 1 && outcomes[0].isGood)
        #expect(outcomes[0].checkedBytes == Self.lengthBytes)
    }

    @Test func aRestoreIsPausedSlowedAndGoesOn() async throws {
        let lab = try await lab()
        let made = try await lab.makePoint(.full)
        let path = lab.directory.path("restored.raw")
        let restore = RestoreJob(
            repository: lab.repository, pointID: made.point, target: .file(path: path),
            format: .raw, stateDirectory: lab.directory.path)
        let job = try await lab.jobs.start(
            JobOptions(type: .restore, autoDismiss: false, speedBytes: 1), restore.run)
        try await JobLab.until("the first bytes") { job.progress.currentBytes > 0 }
        try await lab.jobs.pause(job.id)
        try await JobLab.until("the pause") { job.status == .paused }
        let progress = job.progress.currentBytes
        #expect(progress < Self.lengthBytes)
        try await lab.jobs.setSpeed(0, of: job.id)
        try await Task.sleep(for: .milliseconds(20))
        #expect(job.progress.currentBytes == progress)
        try await lab.jobs.resume(job.id)
        await job.wait()
        #expect(job.error == nil)
        let expected = try await lab.volume.bytes(at: 0, Int(Self.lengthBytes))
        #expect(try readFile(path).firstDifference(from: expected) == nil)
    }
}

import BlockCore
import Foundation
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// A repository that hangs, is slow, or vanishes and comes back in the middle of a backup, while a
/// guest writes; and jobs that are cancelled at any of their steps.
@Suite struct SlowRepositoryTests {
    /// Writes at random until it is told to stop; no write may wait for the repository.
    private final class Guest: Sendable {
        private let task: Task<(count: Int, worst: Duration), any Error>

        init(_ volume: Volume, seed: String) {
            task = Task {
                var random = Seed.generator(seed)
                var count = 0
                var worst = Duration.zero
                while !Task.isCancelled {
                    let length = Int.random(in: 1...20_000, using: &random)
                    let offset = UInt64.random(
                        in: 0...(volume.lengthBytes - UInt64(length)), using: &random)
                    let start = ContinuousClock.now
                    try await volume.write(at: offset, from: .holding(random.bytes(length)))
                    worst = max(worst, ContinuousClock.now - start)
                    count += 1
                    try? await Task.sleep(for: .microseconds(200))
                }
                return (count, worst)
            }
        }

        func finish() async throws -> (count: Int, worst: Duration) {
            task.cancel()
            return try await task.value
        }
    }

    private func waitUntil(
        _ what: String, _ condition: () -> Bool, _ location: SourceLocation = #_sourceLocation
    ) async throws {
        let end = ContinuousClock.now + .seconds(20)
        while !condition() {
            guard ContinuousClock.now < end else {
                Issue.record("\(what) did not happen", sourceLocation: location)
                return
            }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    /// Whatever of the repository hangs: the guest writes on, a cancelled job ends, and the next
    /// backup is right.
    @Test func aHungRepositoryHoldsUpNeitherTheGuestNorACancellation() async throws {
        let operations: [FaultFileSystem.Operation] = [
            .list, .read, .create, .write, .flush, .rename, .flushDirectory,
        ]
        // At the same time, since each waits for the job's patience to end.
        try await withThrowingTaskGroup(of: Void.self) { group in
            for operation in operations {
                group.addTask { try await hang([operation]) }
            }
            try await group.waitForAll()
        }
    }

    private func hang(_ operations: Set<FaultFileSystem.Operation>) async throws {
        let lab = try await BackupLab(lengthBytes: 2 << 20)
        var random = Seed.generator("hang \(operations)")
        try await lab.change(&random)
        try await lab.makePoint()
        try await lab.change(&random)
        let held = lab.files.heldCount
        lab.files.pause(operations)
        let guest = Guest(lab.volume, seed: "guest \(operations)")
        let job = try await lab.start(lab.backup())
        try await waitUntil("the hang") { lab.files.heldCount > held }
        try await Task.sleep(for: .milliseconds(200))
        #expect(job.status == .running)
        let start = ContinuousClock.now
        try await lab.jobs.cancel(job.id)
        await job.wait()
        let duration = ContinuousClock.now - start
        #expect(duration < Detachment.grace + .seconds(2), "\(duration)")
        #expect(job.status == .concluded)
        #expect(job.error?.hasPrefix("the job was cancelled; ") == true, "\(job.error ?? "")")
        #expect(job.error?.contains("vault: it does not answer") == true, "\(job.error ?? "")")
        #expect(lab.volume.frozenBitmaps().isEmpty)
        let written = try await guest.finish()
        #expect(written.count > 50 && written.worst < .seconds(1), "\(written)")
        // It answers again: what was left behind there is undone by itself.
        lab.files.heal()
        try await waitUntil("the undoing") { (try? lab.temporaryNames().isEmpty) == true }
        let next = try await lab.makePoint()
        #expect(next.reason == .bitmap)
        try await lab.expectCurrent(next.point)
    }

    @Test func aSlowRepositoryDelaysNoWriteAndThePointSaysHowMuch() async throws {
        let lab = try await BackupLab(lengthBytes: 2 << 20)
        var random = Seed.generator("slow")
        try await lab.volume.write(at: 0, from: .holding(random.bytes(2 << 20)))
        lab.files.throttle(bytesPerSecond: 2 << 20)
        let guest = Guest(lab.volume, seed: "guest of a slow one")
        let full = try await lab.makePoint()
        let written = try await guest.finish()
        lab.files.heal()
        #expect(written.count > 200 && written.worst < .milliseconds(500), "\(written)")
        let said = try #require(full.guest)
        #expect(said.keptBytes > 0 && said.worstWriteDelayMicroseconds > 0)
        #expect(said.worstWriteDelayMicroseconds <= written.worst.microseconds)
        #expect(full.freeze.durationMicroseconds > 0)
        #expect(try await lab.repository.repository.verify(full.point).isGood)
        let next = try await lab.makePoint()
        #expect(next.parent?.point == full.point)
        try await lab.expectCurrent(next.point)
    }

    @Test func aRepositoryThatVanishesAndComesBackLosesNothing() async throws {
        let lab = try await BackupLab(lengthBytes: 2 << 20)
        var random = Seed.generator("vanishes")
        try await lab.change(&random)
        let full = try await lab.makePoint()
        let guest = Guest(lab.volume, seed: "guest of a vanished one")
        let place = lab.directory.path("vault")
        let away = lab.directory.path("away")
        for round in 0..<2 {
            let job = try await lab.start(lab.backup(.full), speedBytes: 2 << 20)
            try await waitUntil("progress") { job.progress.currentBytes > 0 }
            try HostDirectory.rename(place, to: away)
            // Once it stays away; once an empty folder, an unmounted disk, is in its place.
            if round == 1 { try HostDirectory.create(place) }
            await job.wait()
            #expect(job.failure?.kind == .notFound, "\(job.error ?? "no error")")
            #expect(lab.volume.frozenBitmaps().isEmpty)
            if round == 1 { try FileManager.default.removeItem(atPath: place) }
            try HostDirectory.rename(away, to: place)
            try await lab.repository.repository.sweep()
            #expect(try lab.temporaryNames().isEmpty)
        }
        _ = try await guest.finish()
        let next = try await lab.makePoint()
        #expect(next.parent?.point == full.point)
        try await lab.expectCurrent(next.point)
    }

    /// Before the freeze, while copying, while sealing, and while promoting.
    @Test(arguments: 0..<24)
    func aCancellationAtAnyMomentUndoesOrComesTooLate(step: Int) async throws {
        let lab = try await BackupLab(lengthBytes: 1 << 20)
        var random = Seed.generator("cancel \(step)")
        try await lab.change(&random, count: 10)
        let full = try await lab.makePoint()
        try await lab.change(&random, count: 10)
        // The job is held at one of its operations on files, cancelled, and let go on.
        let job = try await lab.start(lab.backup(step % 2 == 0 ? .auto : .full))
        try await Task.sleep(for: .microseconds(step * 500))
        try? await lab.jobs.cancel(job.id)
        await job.wait()
        #expect(job.status == .concluded)
        #expect(lab.volume.frozenBitmaps().isEmpty)
        #expect(try lab.temporaryNames().isEmpty)
        let points = try await lab.points()
        #expect(points.count == (job.error == nil ? 2 : 1))
        try await lab.change(&random)
        let next = try await lab.makePoint()
        if job.error != nil { #expect(next.parent?.point == full.point) }
        try await lab.expectCurrent(next.point)
    }
}

import BlockCore
import Synchronization
import Testing

@testable import Jobs

/// Jobs that end together.
@Suite struct JobTransactionTests {
    private let lab = JobLab()

    private func start(
        _ bodies: [ScriptedBody], autoFinalize: Bool = true
    ) async throws -> [Job] {
        let transaction = lab.store.newTransaction()
        var jobs: [Job] = []
        for (index, body) in bodies.enumerated() {
            jobs.append(
                try await lab.store.create(
                    JobOptions(
                        id: "job\(index)", type: .backup, autoFinalize: autoFinalize,
                        autoDismiss: false), body, in: transaction))
        }
        for job in jobs { await lab.store.begin(job) }
        return jobs
    }

    @Test func noneIsFinalizedUntilAllWait() async throws {
        let gate = Flag()
        let quick = ScriptedBody.idle
        let slow = ScriptedBody { _ in
            while !gate.isSet { await Task.yield() }
        }
        let jobs = try await start([quick, slow])
        try await JobLab.until("waiting") { jobs[0].status == .waiting }
        try await Task.sleep(for: .milliseconds(10))
        #expect(jobs[0].status == .waiting && quick.steps == ["run"])
        gate.set()
        for job in jobs { await job.wait() }
        let story = lab.events.map { "\($0.id) \($0.word)" }
        let firstEnd = try #require(story.firstIndex { $0.hasSuffix("COMPLETED") })
        for id in ["job0", "job1"] {
            let pending = try #require(story.firstIndex(of: "\(id) pending"))
            #expect(pending < firstEnd)
            #expect(lab.story(of: id).suffix(2) == ["COMPLETED", "concluded"])
        }
    }

    @Test func oneFailureCancelsTheOthers() async throws {
        let failing = ScriptedBody { (_) throws(BlockError) in
            throw BlockError(.io, "read", on: "disk")
        }
        let endless = ScriptedBody.endless
        let done = ScriptedBody.idle
        let jobs = try await start([done, endless, failing])
        for job in jobs { await job.wait() }
        #expect(lab.story(of: "job2").suffix(3) == ["aborting", "COMPLETED badly", "concluded"])
        for id in ["job0", "job1"] {
            #expect(lab.story(of: id).suffix(3) == ["aborting", "CANCELLED", "concluded"])
        }
        for body in [failing, endless, done] {
            #expect(body.steps.contains("abort") && !body.steps.contains("commit"))
        }
    }

    @Test func oneThatFailsInPrepareUndoesThePreparedOnes() async throws {
        let failing = ScriptedBody(
            prepare: { (_) throws(BlockError) in
                throw BlockError(.noSpace, "publish", on: "vault")
            }, run: { _ in })
        let good = [ScriptedBody.idle, ScriptedBody.idle]
        let jobs = try await start([good[0], failing, good[1]])
        for job in jobs { await job.wait() }
        #expect(lab.story(of: "job1").suffix(2) == ["COMPLETED badly", "concluded"])
        for body in good { #expect(body.steps.suffix(2) == ["abort", "clean"]) }
        #expect(!lab.story.contains("COMPLETED"))
    }

    @Test func finalizingOneFinalizesAll() async throws {
        let bodies = [ScriptedBody.idle, ScriptedBody.idle]
        let jobs = try await start(bodies, autoFinalize: false)
        try await JobLab.until("pending") { jobs.allSatisfy { $0.status == .pending } }
        try await lab.store.finalize("job1")
        #expect(jobs.allSatisfy { $0.status == .concluded && $0.error == nil })
        #expect(lab.story.filter { $0 == "PENDING" }.count == 2)
    }

    @Test func cancellingOneThatIsPendingCancelsAll() async throws {
        let bodies = [ScriptedBody.idle, ScriptedBody.idle]
        let jobs = try await start(bodies, autoFinalize: false)
        try await JobLab.until("pending") { jobs.allSatisfy { $0.status == .pending } }
        try await lab.store.cancel("job0")
        #expect(jobs.allSatisfy { $0.status == .concluded && $0.isCancelled })
        for id in ["job0", "job1"] {
            #expect(lab.story(of: id).suffix(3) == ["aborting", "CANCELLED", "concluded"])
        }
    }
}

import BlockCore
import Synchronization
import Testing

@testable import Jobs

/// Jobs of two phases, and the ways to end the second.
@Suite struct JobReadyTests {
    private let lab = JobLab()

    private func startReady(
        _ asked: @escaping @Sendable (JobRequest) -> Void = { _ in }
    ) async throws -> (Job, ScriptedBody) {
        let body = ScriptedBody.ready(asked)
        let job = try await lab.start(body)
        try await JobLab.until("ready") { job.status == .ready }
        return (job, body)
    }

    @Test func readyIsToldAfterItsStateWithEverythingDone() async throws {
        let (job, _) = try await startReady()
        #expect(lab.story == ["created", "running", "ready", "READY"])
        #expect(
            lab.events.last
                == .ready(
                    JobMoment(
                        id: "job", type: .mirror, totalBytes: 7, currentBytes: 7, speedBytes: 0)))
        try await JobLab.until("rest") { !job.isBusy }
        try await lab.store.cancel("job")
        await job.wait()
    }

    @Test func completionIsAskedForOnce() async throws {
        let asked = Requests()
        let (job, _) = try await startReady(asked.note)
        try await lab.store.complete("job")
        await job.wait()
        #expect(asked.all == [.complete])
        #expect(
            lab.story.suffix(5) == ["READY", "waiting", "pending", "COMPLETED", "concluded"])
    }

    @Test func aGracefulCancelIsACompletion() async throws {
        let asked = Requests()
        let (job, body) = try await startReady(asked.note)
        try await lab.store.cancel("job", force: false)
        await job.wait()
        #expect(asked.all == [.cancelGracefully])
        #expect(lab.story.suffix(2) == ["COMPLETED", "concluded"])
        #expect(!lab.story.contains("CANCELLED") && body.steps.contains("commit"))
    }

    @Test func aForcedCancelIsACancellationEvenAfterAGracefulOne() async throws {
        // The body takes its time over the graceful end.
        let body = ScriptedBody { (job) throws(BlockError) in
            job.becomeReady()
            while true {
                try await job.pausePoint()
                await Task.yield()
            }
        }
        let job = try await lab.start(body)
        try await JobLab.until("ready") { job.status == .ready }
        try await lab.store.cancel("job", force: false)
        #expect(job.pendingRequest == .cancelGracefully)
        await JobLab.expectRefusal("The active block job 'job' cannot be completed") {
            try await lab.store.complete("job")
        }
        try await lab.store.cancel("job", force: true)
        await job.wait()
        #expect(lab.story.suffix(4) == ["READY", "aborting", "CANCELLED", "concluded"])
    }

    @Test func aCompletionIsNotTurnedIntoAGracefulCancel() async throws {
        let body = ScriptedBody { (job) throws(BlockError) in
            job.becomeReady()
            while job.takeRequest() != .complete { await Task.yield() }
            while !job.isCancelled, job.pendingRequest == nil { await Task.yield() }
        }
        let job = try await lab.start(body)
        try await JobLab.until("ready") { job.status == .ready }
        try await lab.store.complete("job")
        try await JobLab.until("the request") { job.pendingRequest == nil }
        try await lab.store.cancel("job", force: false)
        #expect(job.pendingRequest == nil)
        try await lab.store.cancel("job")
        await job.wait()
    }

    @Test func aReadyJobPausesToStandbyAndIsCompletedAfterwards() async throws {
        let asked = Requests()
        let (job, _) = try await startReady(asked.note)
        try await lab.store.pause("job")
        try await JobLab.until("standby") { job.status == .standby }
        await JobLab.expectRefusal("The block job for device 'job' is currently paused") {
            try await lab.store.cancel("job", force: false)
        }
        try await lab.store.complete("job")
        try await Task.sleep(for: .milliseconds(10))
        #expect(job.status == .standby && asked.all.isEmpty)
        try await lab.store.resume("job")
        await job.wait()
        #expect(
            lab.story.dropFirst(4) == [
                "standby", "ready", "waiting", "pending", "COMPLETED", "concluded",
            ])
    }

    @Test func changesArriveInTheirOrder() async throws {
        let asked = Requests()
        let (job, _) = try await startReady(asked.note)
        try await lab.store.change(.copyMode(.writeBlocking), of: "job")
        try await lab.store.change(.copyMode(.background), of: "job")
        try await JobLab.until("the changes") { asked.all.count == 2 }
        try await lab.store.complete("job")
        await job.wait()
        #expect(
            asked.all == [
                .change(.copyMode(.writeBlocking)), .change(.copyMode(.background)), .complete,
            ])
        let plain = try await lab.start(id: "plain", ScriptedBody.endless)
        await JobLab.expectRefusal("Job type does not support change") {
            try await lab.store.change(.copyMode(.background), of: "plain")
        }
        await JobLab.expectRefusal(
            "Job 'plain' in state 'running' cannot accept command verb 'complete'"
        ) { try await lab.store.complete("plain") }
        try await lab.store.cancel("plain")
        await plain.wait()
    }
}

/// What a body was asked for.
private final class Requests: Sendable {
    private let requests = Mutex<[JobRequest]>([])

    var all: [JobRequest] { requests.withLock { $0 } }

    @Sendable func note(_ request: JobRequest) { requests.withLock { $0.append(request) } }
}

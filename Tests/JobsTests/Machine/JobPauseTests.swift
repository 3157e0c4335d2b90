import BlockCore
import Synchronization
import Testing

@testable import Jobs

/// Pausing, speed, and errors that wait for a user.
@Suite struct JobPauseTests {
    @Test func aPausedJobStandsStillUntilItIsResumed() async throws {
        let lab = JobLab()
        let job = try await lab.start(ScriptedBody.endless)
        try await JobLab.until("progress") { job.progress.currentBytes > 10 }
        try await lab.store.pause("job")
        try await JobLab.until("the pause") { job.status == .paused }
        #expect(job.isPaused && !job.isBusy)
        let before = job.progress.currentBytes
        try await Task.sleep(for: .milliseconds(20))
        #expect(job.progress.currentBytes == before)
        await JobLab.expectRefusal("Job is already paused") { try await lab.store.pause("job") }
        await JobLab.expectRefusal("The block job for device 'job' is currently paused") {
            try await lab.store.cancel("job", force: false)
        }
        try await lab.store.resume("job")
        try await JobLab.until("progress") { job.progress.currentBytes > before }
        #expect(job.status == .running && job.isBusy)
        await JobLab.expectRefusal("Can't resume a job that was not paused") {
            try await lab.store.resume("job")
        }
        try await lab.store.pause("job")
        try await JobLab.until("the pause") { job.status == .paused }
        try await lab.store.cancel("job")
        await job.wait()
        #expect(
            lab.story == [
                "created", "running", "paused", "running", "paused", "running", "aborting",
                "CANCELLED", "concluded",
            ])
    }

    @Test func aJobOfSeveralTasksIsPausedOnceAllOfThemAre() async throws {
        let lab = JobLab()
        let (isBegun, isReleased) = (Flag(), Flag())
        let body = ScriptedBody { (job) throws(BlockError) in
            try await job.withTasks(3) { () async throws(BlockError) in
                await withTaskGroup(of: Void.self) { group in
                    for number in 0..<3 {
                        group.addTask {
                            defer { job.endTask() }
                            isBegun.set()
                            // The last one is long at work before it looks again.
                            while number == 2, !isReleased.isSet {
                                await Task.yield()
                            }
                            for _ in 0..<(number == 0 ? 1 : 1000) {
                                do throws(BlockError) { try await job.pausePoint() } catch {
                                    return
                                }
                                await Task.yield()
                            }
                        }
                    }
                }
            }
        }
        let job = try await lab.start(body)
        try await JobLab.until("the work") { isBegun.isSet }
        try await lab.store.pause("job")
        try await Task.sleep(for: .milliseconds(20))
        #expect(job.status == .running)
        isReleased.set()
        try await JobLab.until("the pause") { job.status == .paused }
        try await lab.store.resume("job")
        await job.wait()
        #expect(job.error == nil)
        #expect(lab.story.filter { $0 == "paused" }.count == 1)
    }

    @Test func pausingBeforeTheStartHoldsTheWorkUp() async throws {
        let lab = JobLab()
        let body = ScriptedBody.idle
        let job = try await lab.store.create(
            JobOptions(id: "job", type: .backup, autoDismiss: false), body,
            in: lab.store.newTransaction())
        try await lab.store.pause("job")
        await lab.store.begin(job)
        try await JobLab.until("the pause") { job.status == .paused }
        #expect(body.steps.isEmpty)
        try await lab.store.resume("job")
        await job.wait()
        #expect(lab.story.prefix(5) == ["created", "running", "paused", "running", "waiting"])
    }

    @Test func speedHoldsForWhatIsCopiedAndCanBeChangedMeanwhile() async throws {
        let lab = JobLab()
        let body = ScriptedBody { (job) throws(BlockError) in
            for _ in 0..<20 {
                try await job.admit(1 << 20)
                job.expect(1 << 20)
                job.advance(by: 1 << 20)
            }
        }
        // 20 MiB at 20 MiB/s, then with a limit that would take days, then without one.
        let limited = try await lab.start(id: "a", speedBytes: 20 << 20, body)
        let start = ContinuousClock.now
        await limited.wait()
        let duration = ContinuousClock.now - start
        #expect(duration > .milliseconds(750) && duration < .seconds(3), "\(duration)")
        let slow = try await lab.start(id: "b", speedBytes: 10, body)
        try await JobLab.until("the first bytes") { slow.progress.currentBytes == 1 << 20 }
        try await lab.store.setSpeed(20 << 20, of: "b")
        try await JobLab.until("progress") { slow.progress.currentBytes > 1 << 20 }
        try await lab.store.setSpeed(10, of: "b")
        try await Task.sleep(for: .milliseconds(30))
        let before = slow.progress.currentBytes
        try await lab.store.pause("b")
        try await JobLab.until("the pause") { slow.status == .paused }
        try await lab.store.resume("b")
        #expect(slow.progress.currentBytes == before)
        try await lab.store.setSpeed(0, of: "b")
        await slow.wait()
        #expect(slow.error == nil && slow.speedBytes == 0)
        let given = try await lab.start(id: "c", speedBytes: 1, body)
        try await JobLab.until("the first bytes") { given.progress.currentBytes > 0 }
        try await lab.store.cancel("c")
        await given.wait()
        #expect(lab.story(of: "c").contains("CANCELLED"))
    }

    @Test func policiesDecideWhatAnErrorDoes() async throws {
        let full = BlockError(.noSpace, "write", on: "target")
        let broken = BlockError(.io, "read", on: "source")
        let table: [(ErrorPolicy, BlockError, String)] = [
            (.report, broken, "report"), (.report, full, "report"), (.ignore, broken, "ignore"),
            (.ignore, full, "ignore"), (.enospc, broken, "report"), (.auto, broken, "report"),
            (.enospc, full, "stop"), (.auto, full, "stop"), (.stop, broken, "stop"),
        ]
        for (policy, error, action) in table {
            let lab = JobLab()
            let isRead = error.kind == .io
            let decision = Mutex<ErrorDecision?>(nil)
            let body = ScriptedBody { (job) throws(BlockError) in
                let decided = try await job.decide(on: error, isRead: isRead)
                decision.withLock { $0 = decided }
            }
            let job = try await lab.start(
                onSourceError: isRead ? policy : .report,
                onTargetError: isRead ? .report : policy, body)
            if action == "stop" {
                try await JobLab.until("the stop") { job.status == .paused }
                #expect(job.ioStatus == (error.kind == .noSpace ? .nospace : .failed))
                try await lab.store.resume("job")
            }
            await job.wait()
            #expect(job.ioStatus == .ok)
            #expect(lab.story.contains("ERROR \(isRead ? "read" : "write") \(action)"))
            #expect((job.error == nil) == (action != "report"), "\(policy) \(error)")
            let decided = decision.withLock { $0 }
            switch action {
            case "stop": #expect(decided == .retry)
            case "ignore": #expect(decided == .ignore)
            default: #expect(decided == nil && job.failure == error)
            }
        }
    }

    @Test func aJobThatStoppedForAnErrorCanBeGivenUp() async throws {
        let lab = JobLab()
        let body = ScriptedBody { (job) throws(BlockError) in
            _ = try await job.decide(on: BlockError(.io, "read", on: "source"), isRead: true)
        }
        let job = try await lab.start(onSourceError: .stop, body)
        try await JobLab.until("the stop") { job.status == .paused }
        try await lab.store.cancel("job")
        await job.wait()
        #expect(
            lab.story == [
                "created", "running", "ERROR read stop", "paused", "running", "aborting",
                "CANCELLED", "concluded",
            ])
    }
}

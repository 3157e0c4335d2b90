import BlockCore
import Synchronization
import Testing

@testable import Jobs

/// The ways that a job can go, and what it says on them.
@Suite struct JobCourseTests {
    /// QEMU's table, written down a second time, from state to states.
    @Test func statesFollowEachOtherAsInQEMU() {
        let table: [(JobStatus, String)] = [
            (.undefined, "created"), (.created, "aborting null running"),
            (.running, "aborting paused ready waiting"), (.paused, "running"),
            (.ready, "aborting standby waiting"), (.standby, "ready"),
            (.waiting, "aborting pending"), (.pending, "aborting concluded"),
            (.aborting, "aborting concluded"), (.concluded, "null"), (.null, ""),
        ]
        #expect(table.map(\.0) == JobStatus.allCases)
        for (status, successors) in table {
            #expect(
                status.successors.map(\.rawValue).sorted().joined(separator: " ") == successors)
        }
    }

    @Test func verbsAreLegalWhereTheyAreInQEMU() {
        let atWork = "created paused ready running standby"
        let table: [(JobVerb, String)] = [
            (.cancel, "created paused pending ready running standby waiting"), (.pause, atWork),
            (.resume, atWork), (.setSpeed, atWork), (.complete, "ready standby"),
            (.finalize, "pending"), (.dismiss, "concluded"), (.change, atWork),
        ]
        #expect(table.map(\.0) == JobVerb.allCases)
        for (verb, states) in table {
            #expect(
                verb.legalStates.map(\.rawValue).sorted().joined(separator: " ") == states)
        }
    }

    @Test func successEndsWithCompletedBeforeConcluded() async throws {
        let lab = JobLab()
        let body = ScriptedBody.idle
        let job = try await lab.start(autoDismiss: true, body)
        await job.wait()
        #expect(
            lab.story == [
                "created", "running", "waiting", "pending", "COMPLETED", "concluded", "null",
            ])
        #expect(body.steps == ["run", "prepare", "commit", "clean"])
        #expect(await lab.store.all().isEmpty)
    }

    @Test func failureIsCompletedWithAnError() async throws {
        let lab = JobLab()
        let body = ScriptedBody { (_) throws(BlockError) in
            throw BlockError(.io, "read", on: "disk")
        }
        let job = try await lab.start(body)
        await job.wait()
        #expect(lab.story == ["created", "running", "aborting", "COMPLETED badly", "concluded"])
        #expect(body.steps == ["run", "abort", "clean"])
        #expect(job.failure?.kind == .io && job.error == "disk: cannot read: io")
    }

    @Test func cancellingARunningJobIsCancelled() async throws {
        let lab = JobLab()
        let body = ScriptedBody.endless
        let job = try await lab.start(body)
        try await lab.store.cancel("job", force: false)
        await job.wait()
        #expect(lab.story == ["created", "running", "aborting", "CANCELLED", "concluded"])
        #expect(body.steps.last == "clean" && body.steps.contains("abort"))
        #expect(job.error == "the job was cancelled" && job.failure == nil && job.result == nil)
    }

    @Test func aJobThatWasNeverStartedSaysNothingOfItsEnd() async throws {
        let lab = JobLab()
        let body = ScriptedBody.idle
        let job = try await lab.store.create(
            JobOptions(id: "job", type: .backup), body, in: lab.store.newTransaction())
        try await lab.store.cancel("job")
        await job.wait()
        #expect(lab.story == ["created", "aborting", "concluded", "null"])
        #expect(body.steps == ["abort", "clean"])
        await lab.store.begin(job)
        #expect(job.status == .null)
        let second = try await lab.store.create(
            JobOptions(id: "job", type: .backup), body, in: lab.store.newTransaction())
        await lab.store.withdraw(second)
        #expect(lab.story.suffix(2) == ["created", "null"])
        #expect(await lab.store.all().isEmpty)
    }

    @Test func manualFinalizationWaitsAndThenCommits() async throws {
        let lab = JobLab()
        let body = ScriptedBody.idle
        let job = try await lab.start(autoFinalize: false, body)
        try await JobLab.until("pending") { job.status == .pending }
        #expect(lab.story.last == "PENDING" && body.steps == ["run"])
        for verb in [JobVerb.pause, .dismiss, .complete, .setSpeed] {
            await JobLab.expectRefusal(
                "Job 'job' in state 'pending' cannot accept command verb '\(verb.rawValue)'"
            ) { try await lab.apply(verb, "job") }
        }
        try await lab.store.finalize("job")
        #expect(lab.story.suffix(2) == ["COMPLETED", "concluded"])
        #expect(body.steps == ["run", "prepare", "commit", "clean"])
        await JobLab.expectRefusal(
            "Job 'job' in state 'concluded' cannot accept command verb 'finalize'"
        ) { try await lab.store.finalize("job") }
        try await lab.store.dismiss("job")
        await JobLab.expectRefusal("Job not found") { try await lab.store.dismiss("job") }
    }

    @Test func cancellingAPendingJobUndoesIt() async throws {
        let lab = JobLab()
        let body = ScriptedBody.idle
        let job = try await lab.start(autoFinalize: false, body)
        try await JobLab.until("pending") { job.status == .pending }
        try await lab.store.cancel("job", force: false)
        #expect(lab.story.suffix(4) == ["PENDING", "aborting", "CANCELLED", "concluded"])
        #expect(body.steps == ["run", "abort", "clean"])
    }

    @Test func whatFailsInPrepareIsUndone() async throws {
        let lab = JobLab()
        let body = ScriptedBody(
            prepare: { (_) throws(BlockError) in
                throw BlockError(.noSpace, "publish", on: "vault")
            }, run: { _ in })
        let job = try await lab.start(body)
        await job.wait()
        #expect(
            lab.story == [
                "created", "running", "waiting", "pending", "aborting", "COMPLETED badly",
                "concluded",
            ])
        #expect(body.steps == ["run", "prepare", "abort", "clean"])
    }

    @Test func aFailureOfTheLastStepIsTold() async throws {
        let lab = JobLab()
        let body = ScriptedBody(
            commit: { $0.noteFailure(BlockError(.io, "pivot", on: "disk")) }, run: { _ in })
        let job = try await lab.start(body)
        await job.wait()
        #expect(lab.story.suffix(3) == ["pending", "COMPLETED badly", "concluded"])
        #expect(job.failure?.operation == "pivot")
    }

    @Test func idsAreCheckedAsInQEMU() async throws {
        let lab = JobLab()
        let first = try await lab.start(id: "a-1._", ScriptedBody.idle)
        await first.wait()
        for (id, text) in [
            ("", "Invalid job ID ''"), ("1a", "Invalid job ID '1a'"), ("ä", "Invalid job ID 'ä'"),
            ("a b", "Invalid job ID 'a b'"), ("a-1._", "Job ID 'a-1._' already in use"),
        ] {
            let error = await #expect(throws: BlockError.self) {
                try await lab.start(id: id, ScriptedBody.idle)
            }
            #expect(error?.detail == text)
        }
    }

    /// Whatever comes first, exactly one end is told, and it is the one that happened.
    @Test func aJobEndsInOneWayWhateverRaces() async throws {
        let lab = JobLab()
        var ends: Set<String> = []
        for round in 0..<400 {
            let body = ScriptedBody { (job) throws(BlockError) in
                for _ in 0..<(round % 20) { await Task.yield() }
            }
            let id = "job-\(round)"
            let job = try await lab.start(id: id, body)
            for _ in 0..<(round / 20) { await Task.yield() }
            try? await lab.store.cancel(id)
            await job.wait()
            let told = lab.story(of: id).filter { $0 == $0.uppercased() }
            #expect(told.count == 1)
            #expect(body.steps.contains("commit") == (told == ["COMPLETED"]))
            #expect(body.steps.contains("abort") == (told == ["CANCELLED"]))
            ends.formUnion(told)
        }
        #expect(ends == ["COMPLETED", "CANCELLED"], "the race always went the same way")
    }
}

extension JobLab {
    /// Asks a job for `verb`.
    func apply(_ verb: JobVerb, _ id: String) async throws {
        switch verb {
        case .cancel: try await store.cancel(id)
        case .pause: try await store.pause(id)
        case .resume: try await store.resume(id)
        case .setSpeed: try await store.setSpeed(1, of: id)
        case .complete: try await store.complete(id)
        case .finalize: try await store.finalize(id)
        case .dismiss: try await store.dismiss(id)
        case .change: try await store.change(.copyMode(.background), of: id)
        }
    }
}

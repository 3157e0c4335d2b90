import Control

/// What a concluded job came to, for people and as an exit code.
struct JobReport {
    let job: JobInfo
    private let result: JobResult?

    init(_ job: JobInfo) {
        self.job = job
        result = job.result.flatMap { try? $0.decoded(as: JobResult.self) }
    }

    /// One line per point made, verified or restored, or for the images that were merged.
    var text: String {
        let points = result?.points ?? []
        guard points.isEmpty, let chain = result?.chain else {
            return points.map(line).joined(separator: "\n")
        }
        var parts = [
            "\(ByteSize.text(chain.copiedBytes)) copied", TimeText.measured(chain.durationSeconds),
        ]
        if let target = result?.target { parts.append("to \(target)") }
        return "\(result?.volume ?? job.id): \(parts.joined(separator: ", "))"
    }

    /// What did not work, one line each.
    var failures: [String] {
        (result?.failures ?? []).map { "\($0.subject): \($0.error)" }
            + (result?.lost ?? []).map {
                "lost \($0.length) bytes at \($0.offset): \($0.reason)"
            }
    }

    /// The code that the job's command ends with.
    var status: ExitStatus {
        let didSomething = !(result?.points ?? []).isEmpty
        if job.error == nil && failures.isEmpty { return .done }
        return didSomething ? .partlyDone : ExitStatus(job.errorReason)
    }

    /// Why the command did not do all of its work; nil if it did.
    var failure: String? {
        if let error = job.error { return "\(job.type) \(job.id): \(error)" }
        guard !failures.isEmpty else { return nil }
        let count = failures.count
        return "\(job.type) \(job.id): \(count) \(count == 1 ? "item" : "items") failed, see above"
    }

    private func line(_ point: JobPoint) -> String {
        var parts: [String] = []
        if let level = point.level {
            parts.append(point.reason.map { "\(level) (\($0))" } ?? level)
        }
        if let bytes = point.storedBytes { parts.append("\(ByteSize.text(bytes)) stored") }
        if let bytes = point.keptBytes {
            parts.append("\(ByteSize.text(bytes)) were there already")
        }
        if let bytes = point.dirtyBytes { parts.append("\(ByteSize.text(bytes)) dirty") }
        if let seconds = point.durationSeconds { parts.append(TimeText.measured(seconds)) }
        if let seconds = point.freezeDurationSeconds {
            parts.append("frozen \(TimeText.measured(seconds))")
        }
        if let target = result?.target { parts.append("to \(target)") }
        if let volume = result?.volume { parts.append("as volume \(volume)") }
        let subject = point.volume.map { "\($0) \(point.id)" } ?? point.id
        return parts.isEmpty ? subject : "\(subject): \(parts.joined(separator: ", "))"
    }
}

extension AgentSession {
    /// Starts a job by `command`, follows it, dismisses it and prints what it came to. Throws if
    /// it did not do all of its work.
    func runJob<Command: ControlCommand>(
        _ command: Command.Type, _ arguments: Command.Arguments
    ) async throws where Command.Result == StartedJob {
        let (job, wasInterrupted) = try await JobFollower(agent: self).follow {
            try await execute(command, arguments).jobID
        }
        do {
            _ = try await execute(JobDismiss.self, JobReference(id: job.id))
        } catch {
            console.warn("job \(job.id) could not be dismissed: \(error)")
        }
        try report(job, wasInterrupted: wasInterrupted)
    }

    /// Prints what a concluded job came to, and throws if it did not do all of its work.
    func report(_ job: JobInfo, wasInterrupted: Bool) throws {
        let report = JobReport(job)
        try console.result(job) { report.text }
        for failure in report.failures { console.warn(failure) }
        if wasInterrupted {
            throw PrintedFailure(
                .interrupted, "interrupted: \(report.failure ?? "the job had finished before")")
        }
        if let failure = report.failure { throw PrintedFailure(report.status, failure) }
    }
}

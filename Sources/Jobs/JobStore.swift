package import BlockCore
package import Foundation

/// A change of a job's state, for whoever shows events.
package struct JobStatusChange: Sendable {
    package var id: String
    package var status: JobStatus
}

/// The jobs of the agent: starts them, keeps them until they are dismissed, ends them at stop.
///
/// The way of a job that succeeds is created, running, waiting, pending, concluded, null; of one
/// that fails or is cancelled created, running, aborting, concluded, null.
package actor JobStore {
    private var jobs: [String: Job] = [:]
    private var order: [String] = []
    private var lastNumber = 0
    private var isStopping = false
    private let report: @Sendable (JobStatusChange) -> Void
    private let record: @Sendable (JobHistory) async -> Void

    /// `report` is told of every change of state, `record` of every start and end.
    package init(
        report: @escaping @Sendable (JobStatusChange) -> Void,
        record: @escaping @Sendable (JobHistory) async -> Void
    ) {
        self.report = report
        self.record = record
    }

    /// Starts a job that runs `body`. With `autoDismiss` it is forgotten once it has concluded.
    package func start(
        id: String?, type: JobType, autoDismiss: Bool,
        _ body: @escaping @Sendable (Job) async throws(BlockError) -> JobResult
    ) throws(BlockError) -> Job {
        guard !isStopping else {
            throw BlockError(.busy, "start a job", on: "the agent", detail: "it is stopping")
        }
        let id = try id.map { id throws(BlockError) in try checked(id) } ?? nextID(type)
        let job = Job(id: id, type: type)
        jobs[id] = job
        order.append(id)
        report(JobStatusChange(id: id, status: .created))
        job.attach(Task { await run(job, autoDismiss: autoDismiss, body) })
        return job
    }

    /// All jobs that have not been dismissed, oldest first.
    package func all() -> [Job] { order.compactMap { jobs[$0] } }

    /// The job by that id.
    package func job(_ id: String) throws(BlockError) -> Job {
        guard let job = jobs[id] else {
            throw BlockError(.notFound, "find the job", on: id, detail: "Job '\(id)' not found")
        }
        return job
    }

    /// Asks a job to end. It has ended when it is concluded.
    package func cancel(_ id: String) throws(BlockError) {
        let job = try job(id)
        try check(job, accepts: "cancel", in: [.created, .running, .waiting, .pending])
        job.cancel()
    }

    /// Forgets a concluded job.
    package func dismiss(_ id: String) throws(BlockError) {
        let job = try job(id)
        try check(job, accepts: "dismiss", in: [.concluded])
        forget(job)
    }

    /// Cancels every job and waits until all have ended, or until the deadline: what a hung
    /// repository holds up is undone at the next start. No other job can be started.
    package func stop(within deadline: Duration = .seconds(30)) async {
        isStopping = true
        for job in all() where job.status != .concluded { job.cancel() }
        let end = ContinuousClock.now + deadline
        while all().contains(where: { $0.status != .concluded }), ContinuousClock.now < end {
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    private func run(
        _ job: Job, autoDismiss: Bool,
        _ body: @Sendable (Job) async throws(BlockError) -> JobResult
    ) async {
        let started = Date()
        await record(JobHistory(job, started: started, ended: nil))
        move(job, to: .running)
        do throws(BlockError) {
            let result = try await body(job)
            job.succeed(result)
            move(job, to: .waiting)
            move(job, to: .pending)
        } catch {
            job.fail(error)
            move(job, to: .aborting)
        }
        move(job, to: .concluded)
        await record(JobHistory(job, started: started, ended: Date()))
        if autoDismiss { forget(job) }
    }

    private func move(_ job: Job, to status: JobStatus) {
        job.set(status)
        report(JobStatusChange(id: job.id, status: status))
    }

    private func forget(_ job: Job) {
        jobs[job.id] = nil
        order.removeAll { $0 == job.id }
        move(job, to: .null)
    }

    private func check(
        _ job: Job, accepts verb: String, in states: Set<JobStatus>
    ) throws(BlockError) {
        let status = job.status
        guard states.contains(status) else {
            throw BlockError(
                .invalid, verb, on: "job \(job.id)",
                detail: "Job '\(job.id)' in state '\(status.rawValue)' cannot accept command verb "
                    + "'\(verb)'")
        }
    }

    private func checked(_ id: String) throws(BlockError) -> String {
        guard !id.isEmpty, id.utf8.count <= 127 else {
            throw BlockError(
                .invalid, "start a job", on: id, detail: "a job's id has 1 to 127 bytes")
        }
        guard jobs[id] == nil else {
            throw BlockError(
                .invalid, "start a job", on: id, detail: "Job ID '\(id)' already in use")
        }
        return id
    }

    private func nextID(_ type: JobType) -> String {
        repeat { lastNumber += 1 } while jobs["\(type.rawValue)-\(lastNumber)"] != nil
        return "\(type.rawValue)-\(lastNumber)"
    }
}

/// A job as the catalog remembers it.
package struct JobHistory: Sendable {
    package var id: String
    package var type: JobType
    package var status: JobStatus
    package var error: String?
    package var started: Date
    package var ended: Date?

    init(_ job: Job, started: Date, ended: Date?) {
        id = job.id
        type = job.type
        status = job.status
        error = job.error
        self.started = started
        self.ended = ended
    }
}

package import BlockCore
import Foundation

/// The jobs of the agent: starts them, passes on what users ask of them, keeps them until they are
/// dismissed, ends them at stop.
package actor JobStore {
    private struct Entry {
        let job: Job
        let transaction: JobTransaction
    }

    private var entries: [String: Entry] = [:]
    /// The newest last.
    private var order: [String] = []
    private var lastNumber = 0
    private var isStopping = false
    private let report: @Sendable (JobEvent) -> Void
    private let record: @Sendable (JobHistory) async -> Void

    /// `report` is told of everything that happens to jobs, in its order; it is called with a lock
    /// held and must not wait. `record` is told of every start and end.
    package init(
        report: @escaping @Sendable (JobEvent) -> Void,
        record: @escaping @Sendable (JobHistory) async -> Void
    ) {
        self.report = report
        self.record = record
    }

    // MARK: Starting

    /// Makes a job and starts it.
    package func start(
        _ options: JobOptions, _ body: any JobBody
    ) async throws(BlockError) -> Job {
        let job = try await create(options, body, in: newTransaction())
        begin(job)
        return job
    }

    /// Makes a job of work that ends with everything done, and starts it.
    package func start(
        _ options: JobOptions,
        _ work: @escaping @Sendable (Job) async throws(BlockError) -> JobResult
    ) async throws(BlockError) -> Job {
        try await start(options, WholeBody(work: work))
    }

    /// Makes a transaction for jobs that are to end together.
    package nonisolated func newTransaction() -> JobTransaction {
        JobTransaction { await self.conclude($0) }
    }

    /// Makes a job that does nothing until `begin` or `withdraw`.
    package func create(
        _ options: JobOptions, _ body: any JobBody, in transaction: JobTransaction
    ) async throws(BlockError) -> Job {
        guard !isStopping else {
            throw BlockError(.busy, "start a job", on: "the agent", detail: "it is stopping")
        }
        let id =
            try options.id.map { id throws(BlockError) in try checked(id) }
            ?? nextID(options.type)
        let job = Job(id: id, options: options, body: body, report: report, record: record)
        entries[id] = Entry(job: job, transaction: transaction)
        order.append(id)
        await transaction.add(job)
        return job
    }

    /// Starts a job that was created, unless it was given up meanwhile: false then, and what has been
    /// begun for it is the caller's to undo.
    @discardableResult
    package func begin(_ job: Job) -> Bool {
        guard let transaction = entries[job.id]?.transaction, job.begin() else { return false }
        let work = Task {
            await job.remember()
            return await job.runBody()
        }
        job.attach(work)
        // Not in the task that a cancellation ends: what is undone then must not be cut short.
        Task { await transaction.runEnded(job, work.value) }
        return true
    }

    /// Takes back a job that was created, as if it had never been.
    package func withdraw(_ job: Job) async {
        guard let entry = entries[job.id], entry.job === job else { return }
        await entry.transaction.remove(job)
        forget(job)
        job.settle()
    }

    // MARK: Finding

    /// All jobs that have not been dismissed, newest first.
    package func all() -> [Job] { order.reversed().compactMap { entries[$0]?.job } }

    /// The job by that id.
    package func job(_ id: String) throws(JobRefusal) -> Job { try entry(id).job }

    // MARK: Verbs

    package func pause(_ id: String) throws(JobRefusal) { try job(id).pause() }

    package func resume(_ id: String) throws(JobRefusal) { try job(id).resume() }

    package func setSpeed(_ bytesPerSecond: UInt64, of id: String) async throws(JobRefusal) {
        let job = try job(id)
        try job.setSpeed(bytesPerSecond)
        await job.remember()
    }

    package func complete(_ id: String) throws(JobRefusal) { try job(id).complete() }

    package func change(_ change: JobChange, of id: String) throws(JobRefusal) {
        try job(id).change(change)
    }

    /// Asks a job to end: by force, having undone what it began; without force, if it is ready, with
    /// source and target in step. It has ended when it is concluded.
    package func cancel(_ id: String, force: Bool = true) async throws(JobRefusal) {
        let entry = try entry(id)
        if try entry.job.cancel(isForced: force) {
            await entry.transaction.abortCancelled(entry.job)
        }
    }

    /// Ends a pending job and those of its transaction. Returns when they have concluded.
    package func finalize(_ id: String) async throws(JobRefusal) {
        let entry = try entry(id)
        try entry.job.checkVerb(.finalize)
        await entry.transaction.finalize()
    }

    /// Forgets a concluded job.
    package func dismiss(_ id: String) throws(JobRefusal) {
        let job = try job(id)
        try job.checkVerb(.dismiss)
        forget(job)
    }

    /// Gives every job up and waits until all have ended, or until the deadline: what a hung
    /// repository holds up is undone at the next start. No other job can be started.
    package func stop(within deadline: Duration = .seconds(30)) async {
        isStopping = true
        let end = ContinuousClock.now + deadline
        while ContinuousClock.now < end {
            let atWork = all().filter { !$0.status.isOver }
            if atWork.isEmpty { return }
            // Again and again: one that is just ending with others may go on after all.
            for job in atWork where job.interrupt() { Task { try? await cancel(job.id) } }
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: Ending

    private func conclude(_ job: Job) async {
        // What the end of the agent interrupts, and goes on later, has not ended.
        if !(isStopping && job.isCancelled && job.resumption != nil) {
            await job.remember(ended: .now)
        }
        if job.options.autoDismiss || !job.look(\.isStarted) { forget(job) }
        job.settle()
    }

    private func forget(_ job: Job) {
        guard let entry = entries[job.id], entry.job === job else { return }
        entries[job.id] = nil
        order.removeAll { $0 == job.id }
        job.vanish()
    }

    // MARK: Ids

    private func entry(_ id: String) throws(JobRefusal) -> Entry {
        guard let entry = entries[id] else { throw .noSuchJob(id) }
        return entry
    }

    private func checked(_ id: String) throws(BlockError) -> String {
        func refuse(_ text: String) -> BlockError {
            BlockError(.invalid, "start a job", on: id, detail: text)
        }
        guard Self.isWellFormed(id) else { throw refuse("Invalid job ID '\(id)'") }
        guard entries[id] == nil else { throw refuse("Job ID '\(id)' already in use") }
        return id
    }

    /// QEMU's rule for ids, with a bound.
    package static func isWellFormed(_ id: String) -> Bool {
        guard let first = id.utf8.first, id.utf8.count <= 127, isLetter(first) else { return false }
        return id.utf8.allSatisfy {
            isLetter($0) || (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
                || "-._".utf8.contains($0)
        }
    }

    private static func isLetter(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }

    private func nextID(_ type: JobType) -> String {
        repeat { lastNumber += 1 } while entries["\(type.rawValue)-\(lastNumber)"] != nil
        return "\(type.rawValue)-\(lastNumber)"
    }
}

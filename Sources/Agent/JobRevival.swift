import BlockCore
import Catalog
import Foundation
import Jobs
import Logging
import Synchronization
import Volumes

// What becomes of the jobs that were at work when an agent ended, by crash or in order.
//
// A job that can go on says so in the catalog while it runs (`JobResumption`), with the kind of what
// lets it go on. At the next start that gets it back with the options it had, a changed speed
// included. Of any other job what it had begun is undone, as its own kind has it: `Recovery` for
// backups, journals for restores. It is then shown as a job that has failed, until it is dismissed.

/// A job that the end of an agent has interrupted.
struct InterruptedJob: Sendable {
    /// As it was to be run. Its id may be used again.
    var options: JobOptions
    var resumption: JobResumption
}

/// Lets interrupted jobs go on, or says what became of them.
final class JobRevival: Sendable {
    /// Returns nil if nothing was left to do.
    typealias Resume = @Sendable (InterruptedJob) async throws(BlockError) -> Job?

    private let queue: CatalogQueue
    private let jobs: JobStore
    private let log: Logger
    private let kinds = Mutex<[String: Resume]>([:])

    init(queue: CatalogQueue, jobs: JobStore, log: Logger) {
        self.queue = queue
        self.jobs = jobs
        self.log = log
    }

    /// Has jobs of a kind go on by `resume`.
    func register(_ kind: String, _ resume: @escaping Resume) {
        kinds.withLock { $0[kind] = resume }
    }

    /// Shows the interrupted jobs that do not go on, and returns the others. Before any job has been
    /// started.
    func takeStock() async -> [InterruptedJob] {
        var interrupted: [InterruptedJob] = []
        do throws(BlockError) {
            for record in try await unfinished() {
                let type = JobType(rawValue: record.type)
                let detail = JobDetail(json: record.detail) ?? JobDetail()
                if let type, let resumption = detail.resumption,
                    kinds.withLock({ $0[resumption.kind] }) != nil
                {
                    interrupted.append(
                        InterruptedJob(
                            options: JobOptions(id: record.id, type: type, detail),
                            resumption: resumption))
                    try await end(record, "interrupted by the end of the agent; it goes on")
                } else {
                    let error = Self.farewell(type)
                    try await end(record, error)
                    if let type { await show(record.id, type, detail, error) }
                }
            }
        } catch {
            log.warning("what became of interrupted jobs is not known: \(error)")
        }
        return interrupted
    }

    /// Lets jobs go on.
    func resume(_ interrupted: [InterruptedJob]) async {
        for job in interrupted {
            guard let resume = kinds.withLock({ $0[job.resumption.kind] }) else { continue }
            let metadata = Self.metadata(job.options)
            do throws(BlockError) {
                let resumed = try await resume(job)
                log.notice(
                    resumed.map { "a \(job.options.type.rawValue) goes on as job \($0.id)" }
                        ?? "a \(job.options.type.rawValue) had done its work when the agent ended",
                    metadata: metadata)
            } catch {
                log.warning(
                    "a \(job.options.type.rawValue) does not go on: \(error)", metadata: metadata)
                await show(
                    job.options.id ?? "", job.options.type, JobDetail(),
                    "interrupted by the end of the agent, and cannot go on: \(error)")
            }
        }
    }

    /// Shows a job as one that has failed, until somebody dismisses it.
    private func show(_ id: String, _ type: JobType, _ detail: JobDetail, _ error: String) async {
        var options = JobOptions(id: id, type: type, detail)
        options.autoDismiss = false
        options.resumption = nil
        log.notice("job \(id): \(error)", metadata: Self.metadata(options))
        let place = "job \(id)"
        let started = try? await jobs.start(options) { (_) throws(BlockError) in
            throw BlockError(.cancelled, "go on", on: place, detail: error)
        }
        await started?.wait()
    }

    private static func farewell(_ type: JobType?) -> String {
        let consequence =
            switch type {
            case .backup:
                "what was no whole point yet is undone, and its bitmaps have what they had"
            case .restore: "the same restore, started again, goes on where it was"
            default: "it can be started again"
            }
        return "interrupted by the end of the agent; \(consequence)"
    }

    private func unfinished() async throws(BlockError) -> [JobRecord] {
        try await queue.run { (catalog) throws(BlockError) in
            do throws(CatalogError) {
                return try catalog.read { (snapshot) throws(CatalogError) in
                    try snapshot.unfinishedJobs()
                }
            } catch {
                throw BlockError(catalog: error, "list the jobs")
            }
        }
    }

    private func end(_ record: JobRecord, _ error: String) async throws(BlockError) {
        var ended = record
        ended.endedAt = Date()
        ended.state = JobStatus.concluded.rawValue
        ended.error = error
        let record = ended
        try await queue.change("record job \(record.id)") { (transaction) throws(CatalogError) in
            try transaction.upsertJob(record)
        }
    }

    private static func metadata(_ options: JobOptions) -> Logger.Metadata {
        options.device.map { ["volume": "\($0)"] } ?? [:]
    }
}

package import Foundation

/// A job as the catalog remembers it.
package struct JobHistory: Sendable {
    package var id: String
    package var type: JobType
    package var status: JobStatus
    package var error: String?
    package var started: Date
    package var ended: Date?
    package var detail: JobDetail

    init(_ job: Job, ended: Date?) {
        id = job.id
        type = job.type
        status = job.status
        error = job.error
        started = job.created
        self.ended = ended
        detail = JobDetail(job)
    }
}

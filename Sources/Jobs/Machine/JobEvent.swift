/// What happens to jobs, in the order in which it does, for whoever shows it.
package enum JobEvent: Sendable, Equatable {
    case statusChange(id: String, JobStatus)
    case ready(JobMoment)
    case completed(JobMoment, error: String?)
    case cancelled(JobMoment)
    /// A request of the job failed, and what the job does about that.
    case error(id: String, isRead: Bool, ErrorAction)
    /// The job waits for a user to finalize it.
    case pending(id: String, JobType)
}

/// A job as its events show it.
package struct JobMoment: Sendable, Equatable {
    package var id: String
    package var type: JobType
    package var totalBytes: UInt64
    package var currentBytes: UInt64
    /// Bytes per second; 0 for no limit.
    package var speedBytes: UInt64
}

// What is asked of jobs by QEMU's newer names, which are for jobs of all kinds; the older ones are in
// `BlockJobCommands`.

/// Describes the jobs.
package enum QueryJobs: ControlCommand {
    package typealias Result = [JobInfo]

    package static let name = "query-jobs"
    package static let summary = "all jobs, newest first, or one"

    package struct Arguments: Codable, Sendable {
        package var id: String?

        package init(id: String? = nil) { self.id = id }
    }
}

/// Makes a job wait at its next pause point.
package enum JobPause: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-pause"
    package static let summary = "make a job wait"
}

/// Lets a job go on that a user, or an error, has paused.
package enum JobResume: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-resume"
    package static let summary = "let a paused job go on"
}

/// Gives a job up, by force.
package enum JobCancel: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-cancel"
    package static let summary = "give a job up at once"
}

/// Has a job that is ready do what it is for: a mirror pivots.
package enum JobComplete: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-complete"
    package static let summary = "end a job that is ready"
}

/// Ends a job that has done its work and waits for this, and those of its transaction.
package enum JobFinalize: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-finalize"
    package static let summary = "end a pending job"
}

/// Forgets a concluded job.
package enum JobDismiss: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "job-dismiss"
    package static let summary = "forget a concluded job"
}

/// A job by its id.
package struct JobReference: Codable, Sendable, Equatable {
    package var id: String

    package init(id: String) { self.id = id }
}

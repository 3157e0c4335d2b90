// What is asked of jobs by QEMU's older names. They differ from the newer ones in how a job that is
// not there is refused, and in what a cancel does to a job that is ready.

/// Describes the jobs as block jobs.
package enum QueryBlockJobs: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [BlockJobInfo]

    package static let name = "query-block-jobs"
    package static let summary = "all jobs, newest first, as block jobs"
}

/// Makes a job wait at its next pause point.
package enum BlockJobPause: ControlCommand {
    package typealias Arguments = BlockJobReference
    package typealias Result = Nothing

    package static let name = "block-job-pause"
    package static let summary = "make a job wait"
}

/// Lets a job go on that a user, or an error, has paused.
package enum BlockJobResume: ControlCommand {
    package typealias Arguments = BlockJobReference
    package typealias Result = Nothing

    package static let name = "block-job-resume"
    package static let summary = "let a paused job go on"
}

/// Has a job that is ready do what it is for: a mirror pivots.
package enum BlockJobComplete: ControlCommand {
    package typealias Arguments = BlockJobReference
    package typealias Result = Nothing

    package static let name = "block-job-complete"
    package static let summary = "end a job that is ready"
}

/// Ends a job that has done its work and waits for this, and those of its transaction.
package enum BlockJobFinalize: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "block-job-finalize"
    package static let summary = "end a pending job"
}

/// Forgets a concluded job.
package enum BlockJobDismiss: ControlCommand {
    package typealias Arguments = JobReference
    package typealias Result = Nothing

    package static let name = "block-job-dismiss"
    package static let summary = "forget a concluded job"
}

/// Ends a job: one that is ready with source and target in step, unless it is forced.
package enum BlockJobCancel: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-job-cancel"
    package static let summary = "give a job up, or end one that is ready without a pivot"

    package struct Arguments: Codable, Sendable {
        /// The job's id.
        package var device: String
        /// Absent: false.
        package var force: Bool?

        package init(device: String, force: Bool? = nil) {
            self.device = device
            self.force = force
        }
    }
}

/// Limits how fast a job copies, while it runs.
package enum BlockJobSetSpeed: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-job-set-speed"
    package static let summary = "limit how fast a job copies"

    package struct Arguments: Codable, Sendable {
        /// The job's id.
        package var device: String
        /// Bytes per second; 0 is unlimited.
        package var speed: Int64

        package init(device: String, speed: Int64) {
            self.device = device
            self.speed = speed
        }
    }
}

/// Changes how a mirror copies what guests write, while it runs.
package enum BlockJobChange: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-job-change"
    package static let summary = "change the copy mode of a mirror"

    package struct Arguments: Codable, Sendable {
        package var id: String
        package var type: BlockJobChangeType
        package var copyMode: MirrorCopyMode

        package init(id: String, type: BlockJobChangeType = .mirror, copyMode: MirrorCopyMode) {
            self.id = id
            self.type = type
            self.copyMode = copyMode
        }

        private enum CodingKeys: String, CodingKey {
            case id, type
            case copyMode = "copy-mode"
        }
    }
}

/// A job by its id, which the older commands call its device.
package struct BlockJobReference: Codable, Sendable, Equatable {
    package var device: String

    package init(device: String) { self.device = device }
}

/// The kinds of jobs that can be changed.
package enum BlockJobChangeType: String, Codable, Sendable, CaseIterable {
    case mirror
}

/// How a mirror copies what guests write.
package enum MirrorCopyMode: String, Codable, Sendable, CaseIterable {
    case background
    case writeBlocking = "write-blocking"
}

/// What a job does about a request of its own that failed.
package enum OnError: String, Codable, Sendable, CaseIterable {
    /// Fail.
    case report
    /// Say so and go on.
    case ignore
    /// Wait for a user if the medium is full, else fail.
    case enospc
    /// Wait for a user.
    case stop
    /// As enospc.
    case auto
}

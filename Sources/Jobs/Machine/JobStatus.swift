/// The states of a job, named and ordered as QEMU's `query-jobs` has them.
package enum JobStatus: String, Sendable, CaseIterable {
    case undefined, created, running, paused, ready, standby, waiting, pending, aborting
    case concluded, null

    /// The states that a job may go to from this one.
    package var successors: Set<JobStatus> {
        switch self {
        case .undefined: [.created]
        case .created: [.running, .aborting, .null]
        case .running: [.paused, .ready, .waiting, .aborting]
        case .paused: [.running]
        case .ready: [.standby, .waiting, .aborting]
        case .standby: [.ready]
        case .waiting: [.pending, .aborting]
        case .pending: [.aborting, .concluded]
        case .aborting: [.aborting, .concluded]
        case .concluded: [.null]
        case .null: []
        }
    }

    /// Whether the job is at its work, or may go back to it.
    package var isAtWork: Bool {
        switch self {
        case .created, .running, .paused, .ready, .standby: true
        default: false
        }
    }

    /// Whether it is in the phase in which source and target are kept in step.
    package var isReady: Bool { self == .ready || self == .standby }

    /// Whether nothing of it is to be expected any more.
    package var isOver: Bool { self == .concluded || self == .null }
}

/// Why a job does not do what was asked of it. Its text is QEMU's, since programs match on it.
package enum JobRefusal: Error, Sendable, Equatable {
    case noSuchJob(String)
    case wrongState(String, JobStatus, JobVerb)
    case alreadyPaused
    case notPaused
    /// Only a forced cancel ends a job that a user has paused.
    case cannotCancelPaused(String)
    case cannotComplete(String)
    case cannotChange
    /// Not of a kind, or not in a state, in which it can end in a transaction.
    case cannotEndTogether(String)
}

extension JobRefusal: CustomStringConvertible {
    package var description: String {
        switch self {
        case .noSuchJob: "Job not found"
        case .wrongState(let id, let status, let verb):
            "Job '\(id)' in state '\(status.rawValue)' cannot accept command verb "
                + "'\(verb.rawValue)'"
        case .alreadyPaused: "Job is already paused"
        case .notPaused: "Can't resume a job that was not paused"
        case .cannotCancelPaused(let id):
            "The block job for device '\(id)' is currently paused"
        case .cannotComplete(let id): "The active block job '\(id)' cannot be completed"
        case .cannotChange: "Job type does not support change"
        case .cannotEndTogether(let id):
            "Job '\(id)' cannot end in a transaction: only a mirror can that is ready, not paused, "
                + "not ending already, and that is finalized by itself"
        }
    }
}

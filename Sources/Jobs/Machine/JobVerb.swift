/// What a user may ask of a job, named as QEMU names it in its refusals.
package enum JobVerb: String, Sendable, CaseIterable {
    case cancel, pause, resume
    case setSpeed = "set-speed"
    case complete, finalize, dismiss, change

    /// The states in which a job takes it.
    package var legalStates: Set<JobStatus> {
        switch self {
        case .cancel: [.created, .running, .paused, .ready, .standby, .waiting, .pending]
        case .pause, .resume, .setSpeed, .change: [.created, .running, .paused, .ready, .standby]
        case .complete: [.ready, .standby]
        case .finalize: [.pending]
        case .dismiss: [.concluded]
        }
    }

    /// Throws unless the job `id` takes it in `status`.
    func check(_ status: JobStatus, of id: String) throws(JobRefusal) {
        guard legalStates.contains(status) else { throw .wrongState(id, status, self) }
    }
}

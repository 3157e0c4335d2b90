/// QEMU's states of a job.
package enum JobStatus: String, Codable, Sendable, CaseIterable {
    case undefined, created, running, paused, ready, standby, waiting, pending, aborting
    case concluded, null
}

/// One job. The members up to `error` are QEMU's.
package struct JobInfo: Codable, Sendable {
    package var id: String
    /// "backup", "restore", "stream", "verify".
    package var type: String
    package var status: JobStatus
    /// Bytes.
    package var currentProgress: UInt64
    /// Bytes; an estimate that may grow.
    package var totalProgress: UInt64
    /// Why it failed; a concluded job without it succeeded.
    package var error: String?
    package var errorReason: ControlErrorReason?
    /// The volumes concerned.
    package var volumes: [String]?
    /// Of a concluded job: a `JobResult`.
    package var result: JSONValue?
    /// Of a mirror: what it is doing at the moment.
    package var mirror: MirrorProgress?

    package init(
        id: String, type: String, status: JobStatus, currentProgress: UInt64,
        totalProgress: UInt64, error: String? = nil, errorReason: ControlErrorReason? = nil,
        volumes: [String]? = nil, result: JSONValue? = nil, mirror: MirrorProgress? = nil
    ) {
        self.id = id
        self.type = type
        self.status = status
        self.currentProgress = currentProgress
        self.totalProgress = totalProgress
        self.error = error
        self.errorReason = errorReason
        self.volumes = volumes
        self.result = result
        self.mirror = mirror
    }

    private enum CodingKeys: String, CodingKey {
        case id, type, status, error, volumes, result, mirror
        case currentProgress = "current-progress"
        case totalProgress = "total-progress"
        case errorReason = "error-reason"
    }
}

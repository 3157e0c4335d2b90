/// What a job does.
package enum JobType: String, Sendable, CaseIterable {
    case backup, commit, mirror, restore, stream, verify
}

/// How a job is to be run.
package struct JobOptions: Sendable {
    /// Nil for one that is made of type and number.
    package var id: String?
    package var type: JobType
    /// The volume concerned, if it is one.
    package var device: String?
    /// Whether a job whose work is done ends by itself, and not only when a user says so.
    package var autoFinalize: Bool
    /// Whether a concluded job is forgotten by itself.
    package var autoDismiss: Bool
    /// Bytes per second that it may copy, 0 for no limit.
    package var speedBytes: UInt64
    package var onSourceError: ErrorPolicy
    package var onTargetError: ErrorPolicy
    /// How it goes on after a restart of the agent; nil if it does not.
    package var resumption: JobResumption?

    package init(
        id: String? = nil, type: JobType, device: String? = nil, autoFinalize: Bool = true,
        autoDismiss: Bool = true, speedBytes: UInt64 = 0,
        onSourceError: ErrorPolicy = .report, onTargetError: ErrorPolicy = .report,
        resumption: JobResumption? = nil
    ) {
        self.id = id
        self.type = type
        self.device = device
        self.autoFinalize = autoFinalize
        self.autoDismiss = autoDismiss
        self.speedBytes = speedBytes
        self.onSourceError = onSourceError
        self.onTargetError = onTargetError
        self.resumption = resumption
    }
}

/// What a job does about a request of its own that failed.
package enum ErrorPolicy: String, Codable, Sendable, CaseIterable {
    /// Fail.
    case report
    /// Say so, and go on.
    case ignore
    /// Wait for a user if the medium is full; else fail.
    case enospc
    /// Wait for a user.
    case stop
    /// The same as `enospc`.
    case auto

    func action(isFull: Bool) -> ErrorAction {
        switch self {
        case .report: .report
        case .ignore: .ignore
        case .stop: .stop
        case .enospc, .auto: isFull ? .stop : .report
        }
    }
}

/// What a job did about a request that failed.
package enum ErrorAction: String, Sendable {
    case ignore, report, stop
}

/// How a body goes on after a request that failed.
package enum ErrorDecision: Sendable {
    /// Do it again.
    case retry
    /// Go on as if it did not matter, in the way of the job's kind.
    case ignore
}

/// What a job waits for a user to put right.
package enum JobIOStatus: String, Sendable {
    case ok, failed, nospace
}

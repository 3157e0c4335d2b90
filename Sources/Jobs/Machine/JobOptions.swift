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

// What the catalog keeps of a job besides its course, so that an agent that is started again knows how
// an interrupted job was to be run, and whether it can go on.

/// A job's options as the catalog keeps them, in JSON.
package struct JobDetail: Codable, Sendable, Equatable {
    package var device: String?
    package var autoFinalize = true
    package var autoDismiss = true
    package var speedBytes: UInt64 = 0
    package var onSourceError = ErrorPolicy.report
    package var onTargetError = ErrorPolicy.report
    package var resumption: JobResumption?

    package init() {}
}

/// What it takes to let a job go on that the end of the agent has interrupted.
package struct JobResumption: Codable, Sendable, Equatable {
    /// Whose matter it is; see the agent's `JobRevival`.
    package var kind: String
    /// What that needs, in JSON of its own.
    package var arguments: String
    /// The bitmap in the catalog that says what is still to be done.
    package var bitmapID: Int64?

    package init(kind: String, arguments: String = "{}", bitmapID: Int64? = nil) {
        self.kind = kind
        self.arguments = arguments
        self.bitmapID = bitmapID
    }
}

extension JobOptions {
    /// The options of a job that the catalog knows.
    package init(id: String?, type: JobType, _ detail: JobDetail) {
        self.init(
            id: id, type: type, device: detail.device, autoFinalize: detail.autoFinalize,
            autoDismiss: detail.autoDismiss, speedBytes: detail.speedBytes,
            onSourceError: detail.onSourceError, onTargetError: detail.onTargetError,
            resumption: detail.resumption)
    }
}

extension JobDetail {
    /// What a job is like now.
    init(_ job: Job) {
        device = job.options.device
        autoFinalize = job.options.autoFinalize
        autoDismiss = job.options.autoDismiss
        speedBytes = job.speedBytes
        onSourceError = job.options.onSourceError
        onTargetError = job.options.onTargetError
        resumption = job.resumption
    }
}

/// One job as the older commands describe it. The members are QEMU's.
package struct BlockJobInfo: Codable, Sendable, Equatable {
    package var type: String
    /// The job's id.
    package var device: String
    /// Bytes in all; an estimate that may grow.
    package var len: UInt64
    /// Bytes done.
    package var offset: UInt64
    /// Whether it has something to do at the moment.
    package var busy: Bool
    /// Whether it is paused, or is to be at its next pause point.
    package var paused: Bool
    /// Bytes per second; 0 is unlimited.
    package var speed: UInt64
    /// What it waits for a user to put right.
    package var ioStatus: BlockIOStatus
    /// Whether source and target are in step, so that it can be completed.
    package var ready: Bool
    package var status: JobStatus
    package var autoFinalize: Bool
    package var autoDismiss: Bool
    /// Why it failed.
    package var error: String?

    package init(
        type: String, device: String, len: UInt64, offset: UInt64, busy: Bool, paused: Bool,
        speed: UInt64, ioStatus: BlockIOStatus, ready: Bool, status: JobStatus,
        autoFinalize: Bool, autoDismiss: Bool, error: String? = nil
    ) {
        self.type = type
        self.device = device
        self.len = len
        self.offset = offset
        self.busy = busy
        self.paused = paused
        self.speed = speed
        self.ioStatus = ioStatus
        self.ready = ready
        self.status = status
        self.autoFinalize = autoFinalize
        self.autoDismiss = autoDismiss
        self.error = error
    }

    private enum CodingKeys: String, CodingKey {
        case type, device, len, offset, busy, paused, speed, ready, status, error
        case ioStatus = "io-status"
        case autoFinalize = "auto-finalize"
        case autoDismiss = "auto-dismiss"
    }
}

/// Whether a job waits for a user, and why.
package enum BlockIOStatus: String, Codable, Sendable, CaseIterable {
    case ok, failed, nospace
}

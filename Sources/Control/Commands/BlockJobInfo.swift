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
    /// Of a mirror: whether every write is in the target before it is acknowledged.
    package var activelySynced: Bool?
    /// Of a mirror: what it is doing at the moment.
    package var mirror: MirrorProgress?

    package init(
        type: String, device: String, len: UInt64, offset: UInt64, busy: Bool, paused: Bool,
        speed: UInt64, ioStatus: BlockIOStatus, ready: Bool, status: JobStatus,
        autoFinalize: Bool, autoDismiss: Bool, error: String? = nil,
        mirror: MirrorProgress? = nil
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
        self.mirror = mirror
        activelySynced = mirror?.activelySynced
    }

    private enum CodingKeys: String, CodingKey {
        case type, device, len, offset, busy, paused, speed, ready, status, error, mirror
        case activelySynced = "actively-synced"
        case ioStatus = "io-status"
        case autoFinalize = "auto-finalize"
        case autoDismiss = "auto-dismiss"
    }
}

/// Whether a job waits for a user, and why.
package enum BlockIOStatus: String, Codable, Sendable, CaseIterable {
    case ok, failed, nospace
}

/// What a mirror is doing at the moment.
package struct MirrorProgress: Codable, Sendable, Equatable {
    package var copyMode: MirrorCopyMode
    /// What the target lacks.
    package var dueBytes: UInt64
    /// Bytes a second that guests write and the target did not have yet.
    package var dirtyingRate: UInt64
    /// Bytes a second that the job copies.
    package var copyingRate: UInt64
    /// Whether guests write faster than the job copies; in write-blocking mode they cannot.
    package var outrun: Bool
    package var activelySynced: Bool
    /// Whether it goes on after a restart of the agent.
    package var resumed: Bool

    package init(
        copyMode: MirrorCopyMode, dueBytes: UInt64, dirtyingRate: UInt64, copyingRate: UInt64,
        outrun: Bool, activelySynced: Bool, resumed: Bool
    ) {
        self.copyMode = copyMode
        self.dueBytes = dueBytes
        self.dirtyingRate = dirtyingRate
        self.copyingRate = copyingRate
        self.outrun = outrun
        self.activelySynced = activelySynced
        self.resumed = resumed
    }

    private enum CodingKeys: String, CodingKey {
        case outrun, resumed
        case copyMode = "copy-mode"
        case dueBytes = "due-bytes"
        case dirtyingRate = "dirtying-rate"
        case copyingRate = "copying-rate"
        case activelySynced = "actively-synced"
    }
}

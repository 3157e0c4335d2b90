/// The events that the agent sends.
package enum ControlEvent: String, Sendable, CaseIterable {
    /// A job went into another state.
    case jobStatusChange = "JOB_STATUS_CHANGE"
    /// A block job has brought source and target in step and keeps them so until it is told to end.
    case blockJobReady = "BLOCK_JOB_READY"
    /// A block job ended by itself; `error` says if badly.
    case blockJobCompleted = "BLOCK_JOB_COMPLETED"
    /// A block job was given up.
    case blockJobCancelled = "BLOCK_JOB_CANCELLED"
    /// A request of a block job failed.
    case blockJobError = "BLOCK_JOB_ERROR"
    /// A block job has done its work and waits for `job-finalize`.
    case blockJobPending = "BLOCK_JOB_PENDING"
    /// A guest's request failed.
    case blockIOError = "BLOCK_IO_ERROR"
    /// An export is gone, and every client of it.
    case blockExportDeleted = "BLOCK_EXPORT_DELETED"
    /// The agent is about to end.
    case shutdown = "SHUTDOWN"

    var dataType: any Decodable.Type {
        switch self {
        case .jobStatusChange: JobStatusChange.self
        case .blockJobReady, .blockJobCompleted, .blockJobCancelled: BlockJobMoment.self
        case .blockJobError: BlockJobErrorData.self
        case .blockJobPending: BlockJobPendingData.self
        case .blockIOError: BlockIOErrorData.self
        case .blockExportDeleted: BlockExportDeletedData.self
        case .shutdown: ShutdownData.self
        }
    }
}

/// Data of JOB_STATUS_CHANGE.
package struct JobStatusChange: Codable, Sendable, Equatable {
    package var id: String
    package var status: JobStatus

    package init(id: String, status: JobStatus) {
        self.id = id
        self.status = status
    }
}

/// Data of BLOCK_IO_ERROR.
package struct BlockIOErrorData: Codable, Sendable, Equatable {
    /// The volume.
    package var device: String
    package var nodeName: String?
    /// "read" or "write".
    package var operation: String
    /// What the client was told: "report".
    package var action: String
    package var nospace: Bool?
    package var reason: String

    package init(
        device: String, nodeName: String? = nil, operation: String, action: String = "report",
        nospace: Bool? = nil, reason: String
    ) {
        self.device = device
        self.nodeName = nodeName
        self.operation = operation
        self.action = action
        self.nospace = nospace
        self.reason = reason
    }

    private enum CodingKeys: String, CodingKey {
        case device, operation, action, nospace, reason
        case nodeName = "node-name"
    }
}

/// Data of BLOCK_EXPORT_DELETED.
package struct BlockExportDeletedData: Codable, Sendable, Equatable {
    package var id: String

    package init(id: String) { self.id = id }
}

/// Data of SHUTDOWN.
package struct ShutdownData: Codable, Sendable, Equatable {
    /// Whether a client asked for it (`quit`) or a signal did.
    package var guest: Bool
    /// "host-qmp-quit" or "host-signal".
    package var reason: String

    package init(guest: Bool = false, reason: String) {
        self.guest = guest
        self.reason = reason
    }
}

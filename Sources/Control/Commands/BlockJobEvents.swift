/// Data of BLOCK_JOB_READY, BLOCK_JOB_COMPLETED and BLOCK_JOB_CANCELLED.
package struct BlockJobMoment: Codable, Sendable, Equatable {
    package var type: String
    /// The job's id.
    package var device: String
    /// Bytes in all.
    package var len: UInt64
    /// Bytes done.
    package var offset: UInt64
    /// Bytes per second; 0 is unlimited.
    package var speed: UInt64
    package var error: String?

    package init(
        type: String, device: String, len: UInt64, offset: UInt64, speed: UInt64,
        error: String? = nil
    ) {
        self.type = type
        self.device = device
        self.len = len
        self.offset = offset
        self.speed = speed
        self.error = error
    }
}

/// Data of BLOCK_JOB_ERROR.
package struct BlockJobErrorData: Codable, Sendable, Equatable {
    /// The job's id.
    package var device: String
    package var operation: BlockOperation
    package var action: BlockErrorAction

    package init(device: String, operation: BlockOperation, action: BlockErrorAction) {
        self.device = device
        self.operation = operation
        self.action = action
    }
}

/// Data of BLOCK_JOB_PENDING.
package struct BlockJobPendingData: Codable, Sendable, Equatable {
    package var type: String
    package var id: String

    package init(type: String, id: String) {
        self.type = type
        self.id = id
    }
}

/// What failed: a request to the source, or one to the target.
package enum BlockOperation: String, Codable, Sendable, CaseIterable {
    case read, write
}

/// What a job did about a request that failed.
package enum BlockErrorAction: String, Codable, Sendable, CaseIterable {
    case ignore, report, stop
}

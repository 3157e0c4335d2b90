/// What a body that is at its work is asked to do.
package enum JobRequest: Sendable, Equatable {
    /// Bring source and target in step once more, and end with what the job is for: a mirror pivots.
    case complete
    /// Bring source and target in step once more, and end without that.
    case cancelGracefully
    /// End at once.
    case cancel
    /// Go on in another way.
    case change(JobChange)
}

/// A property of a running job that can be changed.
package enum JobChange: Sendable, Equatable {
    case copyMode(CopyMode)
}

/// How a mirror copies what guests write.
package enum CopyMode: String, Codable, Sendable, CaseIterable {
    /// Sometime.
    case background
    /// Before the guest has its answer.
    case writeBlocking = "write-blocking"
}

/// What a job came to: the `result` of a concluded job. A job that did some of its work and not
/// the rest lists both `points` and `failures`.
package struct JobResult: Codable, Sendable, Equatable {
    /// The points made, verified or restored.
    package var points: [JobPoint]?
    /// What did not work, by volume or point.
    package var failures: [JobFailure]?
    /// Where a restore wrote to.
    package var target: String?
    /// The volume that a restore made, or that was mirrored.
    package var volume: String?
    /// What a mirror, or a commit of a volume's top, did.
    package var mirror: JobMirror?
    /// What a stream or a commit of images did.
    package var chain: JobChain?
    /// What a restore that was asked to salvage could not bring back for certain.
    package var lost: [JobLostRange]?

    package init(
        points: [JobPoint]? = nil, failures: [JobFailure]? = nil, target: String? = nil,
        volume: String? = nil, mirror: JobMirror? = nil, chain: JobChain? = nil,
        lost: [JobLostRange]? = nil
    ) {
        self.points = points
        self.failures = failures
        self.target = target
        self.volume = volume
        self.mirror = mirror
        self.chain = chain
        self.lost = lost
    }
}

/// What a mirror did.
package struct JobMirror: Codable, Sendable, Equatable {
    /// Whether the target is the volume's image now.
    package var pivoted: Bool
    /// What was looked at, zeroes included.
    package var copiedBytes: UInt64
    /// What was sent to the target as data.
    package var sentBytes: UInt64
    /// When source and target were equal at the end, in milliseconds since 1970.
    package var instantMilliseconds: Int64?
    package var durationSeconds: Double

    package init(
        pivoted: Bool, copiedBytes: UInt64, sentBytes: UInt64, instantMilliseconds: Int64?,
        durationSeconds: Double
    ) {
        self.pivoted = pivoted
        self.copiedBytes = copiedBytes
        self.sentBytes = sentBytes
        self.instantMilliseconds = instantMilliseconds
        self.durationSeconds = durationSeconds
    }

    private enum CodingKeys: String, CodingKey {
        case pivoted
        case copiedBytes = "copied-bytes"
        case sentBytes = "sent-bytes"
        case instantMilliseconds = "instant-milliseconds"
        case durationSeconds = "duration-seconds"
    }
}

/// What a stream or a commit did.
package struct JobChain: Codable, Sendable, Equatable {
    /// What was copied as data.
    package var copiedBytes: UInt64
    package var durationSeconds: Double

    package init(copiedBytes: UInt64, durationSeconds: Double) {
        self.copiedBytes = copiedBytes
        self.durationSeconds = durationSeconds
    }

    private enum CodingKeys: String, CodingKey {
        case copiedBytes = "copied-bytes"
        case durationSeconds = "duration-seconds"
    }
}

/// A part of a volume that a restore could not bring back for certain.
package struct JobLostRange: Codable, Sendable, Equatable {
    package var offset: UInt64
    package var length: UInt64
    /// What is there instead, and why.
    package var reason: String

    package init(offset: UInt64, length: UInt64, reason: String) {
        self.offset = offset
        self.length = length
        self.reason = reason
    }
}

/// One point of a job's result. A backup fills in everything; other jobs what they know.
package struct JobPoint: Codable, Sendable, Equatable {
    package var id: String
    package var volume: String?
    package var level: String?
    package var reason: String?
    package var storedBytes: UInt64?
    /// What an interrupted run of the same restore had stored already.
    package var keptBytes: UInt64?
    /// What the bitmap held at the freeze.
    package var dirtyBytes: UInt64?
    package var durationSeconds: Double?
    package var freezeDurationSeconds: Double?
    /// The longest that a write of the guest was held up besides the freeze.
    package var worstWriteDelaySeconds: Double?

    package init(
        id: String, volume: String? = nil, level: String? = nil, reason: String? = nil,
        storedBytes: UInt64? = nil, keptBytes: UInt64? = nil, dirtyBytes: UInt64? = nil,
        durationSeconds: Double? = nil, freezeDurationSeconds: Double? = nil,
        worstWriteDelaySeconds: Double? = nil
    ) {
        self.id = id
        self.volume = volume
        self.level = level
        self.reason = reason
        self.storedBytes = storedBytes
        self.keptBytes = keptBytes
        self.dirtyBytes = dirtyBytes
        self.durationSeconds = durationSeconds
        self.freezeDurationSeconds = freezeDurationSeconds
        self.worstWriteDelaySeconds = worstWriteDelaySeconds
    }

    private enum CodingKeys: String, CodingKey {
        case id, volume, level, reason
        case storedBytes = "stored-bytes"
        case keptBytes = "kept-bytes"
        case dirtyBytes = "dirty-bytes"
        case durationSeconds = "duration-seconds"
        case freezeDurationSeconds = "freeze-duration-seconds"
        case worstWriteDelaySeconds = "worst-write-delay-seconds"
    }
}

/// One thing of a job that did not work.
package struct JobFailure: Codable, Sendable, Equatable {
    /// The volume or point.
    package var subject: String
    package var error: String

    package init(subject: String, error: String) {
        self.subject = subject
        self.error = error
    }
}

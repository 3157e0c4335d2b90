// The commands that start the long jobs. Each answers with the job's id at once; the job tells
// the rest (`query-jobs`, JOB_STATUS_CHANGE). With `auto-dismiss` false a concluded job stays to
// be looked at until `job-dismiss`.

/// Backs volumes up, all at one instant.
package enum VolumeBackup: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "volume-backup"
    package static let summary = "back volumes up to a repository, all at one instant"

    package struct Arguments: Codable, Sendable {
        package var jobID: String?
        package var volumes: [String]
        package var repository: String
        /// Absent: auto.
        package var level: BackupLevel?
        /// Absent: the agent's own bitmap of that volume and repository.
        package var bitmap: String?
        /// Absent: not at all.
        package var compress: BackupCompression?
        /// Bytes per second; absent or 0: unlimited.
        package var speed: UInt64?
        /// Whether a repository with too little room is refused. Absent: true.
        package var checkSpace: Bool?
        /// What it does about a source that cannot be read. Absent: report.
        package var onSourceError: OnError?
        /// What it does about a target that cannot be written. Absent: report.
        package var onTargetError: OnError?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(
            jobID: String? = nil, volumes: [String], repository: String,
            level: BackupLevel? = nil, bitmap: String? = nil,
            compress: BackupCompression? = nil, speed: UInt64? = nil, checkSpace: Bool? = nil,
            autoDismiss: Bool? = nil
        ) {
            self.jobID = jobID
            self.volumes = volumes
            self.repository = repository
            self.level = level
            self.bitmap = bitmap
            self.compress = compress
            self.speed = speed
            self.checkSpace = checkSpace
            self.autoDismiss = autoDismiss
        }

        private enum CodingKeys: String, CodingKey {
            case volumes, repository, level, bitmap, compress, speed
            case checkSpace = "check-space"
            case jobID = "job-id"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
        }
    }
}

/// Reads points back and compares every digest.
package enum PointVerify: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "point-verify"
    package static let summary = "read restore points back and compare their digests"

    package struct Arguments: Codable, Sendable {
        package var jobID: String?
        /// Absent: all points of `repository`.
        package var points: [String]?
        package var repository: String?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: UInt64?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(
            jobID: String? = nil, points: [String]? = nil, repository: String? = nil,
            autoDismiss: Bool? = nil
        ) {
            self.jobID = jobID
            self.points = points
            self.repository = repository
            self.autoDismiss = autoDismiss
        }

        private enum CodingKeys: String, CodingKey {
            case points, repository, speed
            case jobID = "job-id"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
        }
    }
}

/// Writes a point to an image. A restore of the same point to the same place that is under way
/// already is the answer.
package enum PointRestore: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "point-restore"
    package static let summary = "restore a point to a file or an NBD export, or as a new volume"

    package struct Arguments: Codable, Sendable {
        package var jobID: String?
        package var point: String
        /// The file to make, or the URI of an NBD export to overwrite; either this or `asVolume`.
        package var target: String?
        /// Absent: qcow2.
        package var format: ImageFormat?
        /// The name of the volume to make.
        package var asVolume: String?
        /// Serve the volume at once and copy the point behind it; with `asVolume` only.
        package var instant: Bool?
        /// Restore what is left of a damaged chain, and list what is lost.
        package var salvage: Bool?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: UInt64?
        /// What it does about a source that cannot be read. Absent: report.
        package var onSourceError: OnError?
        /// What it does about a target that cannot be written. Absent: report.
        package var onTargetError: OnError?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(
            jobID: String? = nil, point: String, target: String? = nil,
            format: ImageFormat? = nil, asVolume: String? = nil, instant: Bool? = nil,
            salvage: Bool? = nil, speed: UInt64? = nil, autoDismiss: Bool? = nil
        ) {
            self.jobID = jobID
            self.point = point
            self.target = target
            self.format = format
            self.asVolume = asVolume
            self.instant = instant
            self.salvage = salvage
            self.speed = speed
            self.autoDismiss = autoDismiss
        }

        private enum CodingKeys: String, CodingKey {
            case point, target, format, instant, salvage, speed
            case jobID = "job-id"
            case asVolume = "as-volume"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
        }
    }
}

/// What kind of point is asked for.
package enum BackupLevel: String, Codable, Sendable, CaseIterable {
    /// Incremental where that is possible, else full.
    case auto
    case full
    case incremental
    /// On top of the last full.
    case differential
}

/// How points are compressed.
package enum BackupCompression: String, Codable, Sendable, CaseIterable {
    case zstd
}

/// The answer of every command that starts a job.
package struct StartedJob: Codable, Sendable, Equatable {
    package var jobID: String

    package init(jobID: String) { self.jobID = jobID }

    private enum CodingKeys: String, CodingKey {
        case jobID = "job-id"
    }
}

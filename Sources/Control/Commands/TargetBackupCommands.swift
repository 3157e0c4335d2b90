// QEMU's backups: the content of a volume at one instant, copied to an image instead of a repository.
// Names and meanings are QEMU's; the bitmaps are those of volumes.

/// What both commands that start such a backup ask for.
package protocol TargetBackupArguments: CopyJobArguments {
    var device: String { get }
    var target: String { get }
    var sync: BackupSyncMode { get }
    var bitmap: String? { get }
    var bitmapMode: BitmapSyncMode? { get }
    var compress: Bool? { get }
    var speed: Int64? { get }
}

/// Copies a volume, as it is at this instant, to a node or volume.
package enum BlockdevBackup: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "blockdev-backup"
    package static let summary = "copy a volume, as it is at this instant, to a node"

    package struct Arguments: TargetBackupArguments, Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// A node, or another volume.
        package var target: String
        package var sync: BackupSyncMode
        package var bitmap: String?
        package var bitmapMode: BitmapSyncMode?
        /// Whether a qcow2 target gets compressed clusters. Absent: false.
        package var compress: Bool?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: Int64?
        /// Absent: report.
        package var onSourceError: OnError?
        /// Absent: report.
        package var onTargetError: OnError?
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String, target: String, sync: BackupSyncMode) {
            self.device = device
            self.target = target
            self.sync = sync
        }

        private enum CodingKeys: String, CodingKey {
            case device, target, sync, bitmap, compress, speed
            case jobID = "job-id"
            case bitmapMode = "bitmap-mode"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
            case autoFinalize = "auto-finalize"
            case autoDismiss = "auto-dismiss"
        }
    }
}

/// Copies a volume, as it is at this instant, to an image, which is made for it or exists.
package enum DriveBackup: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "drive-backup"
    package static let summary = "copy a volume, as it is at this instant, to an image"

    package struct Arguments: TargetBackupArguments, Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// A file, or the URI of an NBD export.
        package var target: String
        /// Absent: that of the volume for an image that is made; guessed for one that exists.
        package var format: ImageFormat?
        package var sync: BackupSyncMode
        /// Absent: absolute-paths.
        package var mode: ImageMode?
        package var bitmap: String?
        package var bitmapMode: BitmapSyncMode?
        /// Whether a qcow2 target gets compressed clusters. Absent: false.
        package var compress: Bool?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: Int64?
        /// Absent: report.
        package var onSourceError: OnError?
        /// Absent: report.
        package var onTargetError: OnError?
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String, target: String, sync: BackupSyncMode) {
            self.device = device
            self.target = target
            self.sync = sync
        }

        private enum CodingKeys: String, CodingKey {
            case device, target, format, sync, mode, bitmap, compress, speed
            case jobID = "job-id"
            case bitmapMode = "bitmap-mode"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
            case autoFinalize = "auto-finalize"
            case autoDismiss = "auto-dismiss"
        }
    }
}

/// What a backup copies.
package enum BackupSyncMode: String, Codable, Sendable, CaseIterable {
    /// What the top image holds.
    case top
    case full
    /// What guests overwrite, as long as the job runs.
    case none
    /// What a bitmap has marked, which then tells what the target lacks if the backup succeeds.
    case incremental
    /// What a bitmap has marked; `bitmap-mode` says what becomes of that.
    case bitmap
}

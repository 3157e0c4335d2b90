// Mirrors. What QEMU's commands have under these names means what it means there; `incremental` and
// `bitmap` with `bitmap` and `bitmap-mode`, `base`, and the mode `relative-paths` are more than QEMU has.

/// What both commands that start a mirror ask for.
package protocol MirrorArguments: CopyJobArguments {
    var device: String { get }
    var target: String { get }
    var sync: MirrorSyncMode { get }
    var bitmap: String? { get }
    var bitmapMode: BitmapSyncMode? { get }
    var base: String? { get }
    var granularity: UInt64? { get }
    var bufSize: UInt64? { get }
    var targetIsZero: Bool? { get }
    var copyMode: MirrorCopyMode? { get }
    var autoConverge: Bool? { get }
    var replaces: String? { get }
    var speed: UInt64? { get }
}

/// Copies a volume to an image or an export, which is made for it or exists, and keeps that in step.
package enum DriveMirror: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "drive-mirror"
    package static let summary = "copy a volume to another image, and keep that in step"

    package struct Arguments: MirrorArguments, Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// A file, or the URI of an NBD export.
        package var target: String
        /// Absent: that of the volume for an image that is made; guessed for one that exists.
        package var format: ImageFormat?
        package var sync: MirrorSyncMode
        /// Absent: absolute-paths.
        package var mode: ImageMode?
        package var bitmap: String?
        package var bitmapMode: BitmapSyncMode?
        /// A file of the volume's chain: what the images above it hold is copied.
        package var base: String?
        /// Bytes. Absent: that of the bitmap, or of the volume's clusters.
        package var granularity: UInt64?
        /// How many bytes may be in flight. Absent or 0: 16 MiB.
        package var bufSize: UInt64?
        /// Whether zeroes may give storage of the target back. Absent: true.
        package var unmap: Bool?
        /// Whether the target is known to read as zeroes. Absent: false.
        package var targetIsZero: Bool?
        /// Absent: background.
        package var copyMode: MirrorCopyMode?
        /// Whether it goes over to write-blocking by itself if guests write faster than it copies.
        /// Absent: false.
        package var autoConverge: Bool?
        /// What the target takes the place of when the job is completed: the volume, or its top
        /// image. Absent: the same.
        package var replaces: String?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: UInt64?
        /// Absent: report.
        package var onSourceError: OnError?
        /// Absent: report.
        package var onTargetError: OnError?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String, target: String, sync: MirrorSyncMode) {
            self.device = device
            self.target = target
            self.sync = sync
        }

        private enum CodingKeys: String, CodingKey {
            case device, target, format, sync, mode, bitmap, base, granularity, unmap, speed,
                replaces
            case jobID = "job-id"
            case bitmapMode = "bitmap-mode"
            case bufSize = "buf-size"
            case targetIsZero = "target-is-zero"
            case copyMode = "copy-mode"
            case autoConverge = "auto-converge"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
            case autoFinalize = "auto-finalize"
            case autoDismiss = "auto-dismiss"
        }
    }
}

/// Copies a volume to what there is, and keeps that in step.
package enum BlockdevMirror: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "blockdev-mirror"
    package static let summary = "copy a volume to what exists already, and keep that in step"

    package struct Arguments: MirrorArguments, Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// A volume, a file, or the URI of an NBD export.
        package var target: String
        package var sync: MirrorSyncMode
        package var bitmap: String?
        package var bitmapMode: BitmapSyncMode?
        /// A file of the volume's chain: what the images above it hold is copied.
        package var base: String?
        /// Bytes. Absent: that of the bitmap, or of the volume's clusters.
        package var granularity: UInt64?
        /// How many bytes may be in flight. Absent or 0: 16 MiB.
        package var bufSize: UInt64?
        /// Whether the target is known to read as zeroes. Absent: false.
        package var targetIsZero: Bool?
        /// Absent: background.
        package var copyMode: MirrorCopyMode?
        /// Whether it goes over to write-blocking by itself if guests write faster than it copies.
        /// Absent: false.
        package var autoConverge: Bool?
        /// What the target takes the place of when the job is completed: the volume, or its top
        /// image. Absent: the same.
        package var replaces: String?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: UInt64?
        /// Absent: report.
        package var onSourceError: OnError?
        /// Absent: report.
        package var onTargetError: OnError?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String, target: String, sync: MirrorSyncMode) {
            self.device = device
            self.target = target
            self.sync = sync
        }

        private enum CodingKeys: String, CodingKey {
            case device, target, sync, bitmap, base, granularity, speed, replaces
            case jobID = "job-id"
            case bitmapMode = "bitmap-mode"
            case bufSize = "buf-size"
            case targetIsZero = "target-is-zero"
            case copyMode = "copy-mode"
            case autoConverge = "auto-converge"
            case onSourceError = "on-source-error"
            case onTargetError = "on-target-error"
            case autoFinalize = "auto-finalize"
            case autoDismiss = "auto-dismiss"
        }
    }

}

/// What a mirror copies before it keeps its target in step.
package enum MirrorSyncMode: String, Codable, Sendable, CaseIterable {
    case full
    /// What the top image holds.
    case top
    /// Nothing.
    case none
    /// What a bitmap has marked, which then tells what the target lacks if the mirror succeeds.
    case incremental
    /// What a bitmap has marked; `bitmap-mode` says what becomes of that.
    case bitmap
}

/// What becomes of the bitmap that a job starts from.
package enum BitmapSyncMode: String, Codable, Sendable, CaseIterable {
    case onSuccess = "on-success"
    case never
    case always
}

/// How an image that a job or a snapshot is to write comes to be.
package enum ImageMode: String, Codable, Sendable, CaseIterable {
    case existing
    case absolutePaths = "absolute-paths"
    case relativePaths = "relative-paths"
}

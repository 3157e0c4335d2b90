/// Copies what images of a volume hold into one below them, and has the volume need them no more. If
/// the volume's top is among them, the job is ready once both are in step, and ends when told to, as
/// a mirror. Images are named by their files, also where QEMU would have a node's name.
package enum BlockCommit: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "block-commit"
    package static let summary = "merge images of a volume into one below them"

    package struct Arguments: Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// The image that is written. Absent: the last of the chain.
        package var base: String?
        package var baseNode: String?
        /// The uppermost image that is copied. Absent: the volume's top.
        package var top: String?
        package var topNode: String?
        /// What the header of the image above is to call the base. Absent: its path.
        package var backingFile: String?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: Int64?
        /// What it does about an image that cannot be read or written. Absent: report.
        package var onError: OnError?
        /// What QEMU calls the filter that it inserts; here there is none.
        package var filterNodeName: String?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String) { self.device = device }

        private enum CodingKeys: String, CodingKey {
            case device, base, top, speed
            case jobID = "job-id"
            case baseNode = "base-node"
            case topNode = "top-node"
            case backingFile = "backing-file"
            case onError = "on-error"
            case filterNodeName = "filter-node-name"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
        }
    }
}

/// Copies what a volume has of its backing images into its own. A stream of the volume that is
/// under way already is the answer.
package enum BlockStream: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "block-stream"
    package static let summary = "make a volume depend on no other image"

    package struct Arguments: Codable, Sendable {
        /// Absent: the volume's name.
        package var jobID: String?
        /// The volume.
        package var device: String
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: UInt64?
        /// What it does about a point that cannot be read or a volume that cannot be written.
        /// Absent: report.
        package var onError: OnError?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(
            jobID: String? = nil, device: String, speed: UInt64? = nil, autoDismiss: Bool? = nil
        ) {
            self.jobID = jobID
            self.device = device
            self.speed = speed
            self.autoDismiss = autoDismiss
        }

        private enum CodingKeys: String, CodingKey {
            case device, speed
            case jobID = "job-id"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
            case onError = "on-error"
        }
    }
}

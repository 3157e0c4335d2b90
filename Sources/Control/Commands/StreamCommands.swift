// Streams, with what QEMU's command of this name has. `priority` is more than QEMU has. Images are
// named by their files, also where QEMU would have a node's name.

/// Copies what an image of a volume lacks of the images below it into it, and has it need these no
/// more. A stream of a volume served over a point that is under way already is the answer.
package enum BlockStream: ControlCommand {
    package typealias Result = StartedJob

    package static let name = "block-stream"
    package static let summary = "make an image depend on no other, or on fewer"

    package struct Arguments: Codable, Sendable {
        /// Absent: the name of the device.
        package var jobID: String?
        /// The volume, or an image of a volume's chain.
        package var device: String
        /// The image that stays the backing. One of this, `baseNode` and `bottom`, or none: all is
        /// copied.
        package var base: String?
        package var baseNode: String?
        /// The last image that is copied.
        package var bottom: String?
        /// What the header is to call the base. Absent: its path.
        package var backingFile: String?
        /// Bytes per second; 0 or absent is unlimited.
        package var speed: Int64?
        /// What it does about an image that cannot be read or written. Absent: report.
        package var onError: OnError?
        /// What QEMU calls the filter that it inserts; here there is none.
        package var filterNodeName: String?
        /// Absent: idle.
        package var priority: JobPriority?
        /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
        /// Absent: true.
        package var autoFinalize: Bool?
        /// Absent: true.
        package var autoDismiss: Bool?

        package init(device: String) { self.device = device }

        private enum CodingKeys: String, CodingKey {
            case device, base, bottom, speed, priority
            case jobID = "job-id"
            case baseNode = "base-node"
            case backingFile = "backing-file"
            case onError = "on-error"
            case filterNodeName = "filter-node-name"
            case autoDismiss = "auto-dismiss"
            case autoFinalize = "auto-finalize"
        }
    }
}

/// How a job stands to guests.
package enum JobPriority: String, Codable, Sendable, CaseIterable {
    /// It takes what they leave.
    case idle
    /// It takes what it can.
    case normal
}

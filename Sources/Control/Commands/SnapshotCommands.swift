/// Puts an overlay over the images of a volume, which are written no more from then on. The volume's
/// bitmaps go on.
package enum BlockdevSnapshotSync: ControlCommand {
    package typealias Result = Nothing

    package static let name = "blockdev-snapshot-sync"
    package static let summary = "put an overlay over the images of a volume"

    package struct Arguments: Codable, Sendable {
        /// The volume; either this or `nodeName`.
        package var device: String?
        package var nodeName: String?
        /// The overlay: a file.
        package var snapshotFile: String
        /// What QEMU calls the overlay from then on; here it goes by its file.
        package var snapshotNodeName: String?
        /// qcow2, and absent the same.
        package var format: ImageFormat?
        /// Absent: absolute-paths.
        package var mode: ImageMode?

        package init(device: String, snapshotFile: String, mode: ImageMode? = nil) {
            self.device = device
            self.snapshotFile = snapshotFile
            self.mode = mode
        }

        private enum CodingKeys: String, CodingKey {
            case device, format, mode
            case nodeName = "node-name"
            case snapshotFile = "snapshot-file"
            case snapshotNodeName = "snapshot-node-name"
        }
    }
}

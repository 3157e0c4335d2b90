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

/// Has a volume go on with images that somebody else has made. They are opened and checked before the
/// old ones are let go; a failure leaves those serving.
package enum DriveReopen: ControlCommand {
    package typealias Result = Nothing

    package static let name = "drive-reopen"
    package static let summary = "have a volume go on with other images"

    package struct Arguments: Codable, Sendable {
        /// The volume.
        package var device: String
        /// The new top: a file, or the URI of an NBD export.
        package var newImageFile: String
        /// Absent: qcow2, of an export raw.
        package var format: ImageFormat?
        /// Whether the new images are known to read as the volume does; else its bitmaps are not
        /// believed any more, and the next backup compares. Absent: false.
        package var sameContent: Bool?

        package init(
            device: String, newImageFile: String, format: ImageFormat? = nil,
            sameContent: Bool? = nil
        ) {
            self.device = device
            self.newImageFile = newImageFile
            self.format = format
            self.sameContent = sameContent
        }

        private enum CodingKeys: String, CodingKey {
            case device, format
            case newImageFile = "new-image-file"
            case sameContent = "same-content"
        }
    }
}

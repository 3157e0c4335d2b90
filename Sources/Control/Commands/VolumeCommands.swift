/// Makes a new volume and its image.
package enum VolumeCreate: ControlCommand {
    package typealias Result = Nothing

    package static let name = "volume-create"
    package static let summary = "create a volume with a new image"

    package struct Arguments: Codable, Sendable {
        package var name: String
        /// Bytes; may be absent where `backing` tells it.
        package var size: UInt64?
        /// Absent: qcow2.
        package var format: ImageFormat?
        /// Absent: a file in the agent's state directory.
        package var path: String?
        /// What the image reads where it holds nothing: a file.
        package var backing: String?
        /// The format of `backing`, which is never guessed: a guest may have written it.
        package var backingFormat: ImageFormat?
        /// Whether `backing` may name files outside of its own folder. Absent: false.
        package var allowOutside: Bool?
        /// Whether the content of a raw image bypasses the host's page cache. Absent: false.
        package var direct: Bool?
        /// What the bitmaps have to survive. Absent: power.
        package var durability: VolumeDurability?
        /// What is done about what the image has only in its backing. Absent: cow.
        package var backingMode: VolumeBackingMode?

        package init(
            name: String, size: UInt64? = nil, format: ImageFormat? = nil, path: String? = nil,
            backing: String? = nil, backingFormat: ImageFormat? = nil, allowOutside: Bool? = nil,
            direct: Bool? = nil, durability: VolumeDurability? = nil,
            backingMode: VolumeBackingMode? = nil
        ) {
            self.name = name
            self.size = size
            self.format = format
            self.path = path
            self.backing = backing
            self.backingFormat = backingFormat
            self.allowOutside = allowOutside
            self.direct = direct
            self.durability = durability
            self.backingMode = backingMode
        }

        private enum CodingKeys: String, CodingKey {
            case name, size, format, path, backing, direct, durability
            case backingMode = "backing-mode"
            case backingFormat = "backing-format"
            case allowOutside = "allow-outside"
        }
    }
}

/// Makes a volume of an image that exists.
package enum VolumeImport: ControlCommand {
    package static let name = "volume-import"
    package static let summary = "make a volume of an existing image"

    package struct Arguments: Codable, Sendable {
        package var name: String
        package var file: String
        /// Absent: guessed from its first bytes, once.
        package var format: ImageFormat?
        /// Whether the image may name files outside of its own folder. Absent: false.
        package var allowOutside: Bool?
        /// Whether the content of a raw image bypasses the host's page cache. Absent: false.
        package var direct: Bool?
        /// What the bitmaps have to survive. Absent: power.
        package var durability: VolumeDurability?
        /// What is done about what the image has only in its backing. Absent: cow.
        package var backingMode: VolumeBackingMode?

        package init(
            name: String, file: String, format: ImageFormat? = nil, allowOutside: Bool? = nil,
            direct: Bool? = nil, durability: VolumeDurability? = nil,
            backingMode: VolumeBackingMode? = nil
        ) {
            self.name = name
            self.file = file
            self.format = format
            self.allowOutside = allowOutside
            self.direct = direct
            self.durability = durability
            self.backingMode = backingMode
        }

        private enum CodingKeys: String, CodingKey {
            case name, file, format, direct, durability
            case backingMode = "backing-mode"
            case allowOutside = "allow-outside"
        }
    }

    package struct Result: Codable, Sendable {
        /// What to know about a format that was guessed.
        package var warning: String?

        package init(warning: String? = nil) { self.warning = warning }
    }
}

/// Changes what a volume does.
package enum VolumeSet: ControlCommand {
    package typealias Result = Nothing

    package static let name = "volume-set"
    package static let summary = "change what a volume does"

    package struct Arguments: Codable, Sendable {
        package var name: String
        /// What is done about what its top has only in the images below. Absent: as it is.
        package var backingMode: VolumeBackingMode?

        package init(name: String, backingMode: VolumeBackingMode? = nil) {
            self.name = name
            self.backingMode = backingMode
        }

        private enum CodingKeys: String, CodingKey {
            case name
            case backingMode = "backing-mode"
        }
    }
}

/// Changes the length of a volume or node; QEMU's command, but for `shrink`.
package enum BlockResize: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block_resize"
    package static let summary = "change the length of a volume or node"

    package struct Arguments: Codable, Sendable {
        /// The volume; either this or `nodeName`.
        package var device: String?
        /// The volume or node.
        package var nodeName: String?
        /// Bytes.
        package var size: UInt64
        /// Whether what lies behind the new end may be lost. Absent: false.
        package var shrink: Bool?

        package init(nodeName: String, size: UInt64, shrink: Bool? = nil) {
            self.nodeName = nodeName
            self.size = size
            self.shrink = shrink
        }

        private enum CodingKeys: String, CodingKey {
            case device, size, shrink
            case nodeName = "node-name"
        }
    }
}

/// Describes the volumes.
package enum QueryVolumes: ControlCommand {
    package typealias Result = [VolumeInfo]

    package static let name = "query-volumes"
    package static let summary = "all volumes, or one"

    package struct Arguments: Codable, Sendable {
        package var name: String?

        package init(name: String? = nil) { self.name = name }
    }
}

/// Forgets a volume.
package enum VolumeRemove: ControlCommand {
    package typealias Result = Nothing

    package static let name = "volume-remove"
    package static let summary = "forget a volume; its files stay unless delete-files is true"

    package struct Arguments: Codable, Sendable {
        package var name: String
        /// Absent: false.
        package var deleteFiles: Bool?
        /// Whether the image, a qcow2 of version 3, lists the bitmaps from then on, so that QEMU
        /// goes on with them. Absent: false.
        package var storeBitmaps: Bool?

        package init(name: String, deleteFiles: Bool? = nil, storeBitmaps: Bool? = nil) {
            self.name = name
            self.deleteFiles = deleteFiles
            self.storeBitmaps = storeBitmaps
        }

        private enum CodingKeys: String, CodingKey {
            case name
            case deleteFiles = "delete-files"
            case storeBitmaps = "store-bitmaps"
        }
    }
}

/// The formats an image can have.
package enum ImageFormat: String, Codable, Sendable, CaseIterable {
    case qcow2
    case raw
}

/// What the bitmaps of a volume survive without a doubt.
package enum VolumeDurability: String, Codable, Sendable, CaseIterable {
    /// A power loss.
    case power
    /// The end of the agent in any way. After the host went down they are not trusted.
    case process
}

/// What a volume does about what it has only in images below its top.
package enum VolumeBackingMode: String, Codable, Sendable, CaseIterable {
    /// Reads it there each time.
    case cow
    /// Stores in the top what guests read.
    case cor
    /// Copies all of it into the top, at idle priority, and is `cow` when that is done.
    case stream
}

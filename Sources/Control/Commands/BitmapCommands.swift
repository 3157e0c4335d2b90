// QEMU's commands on dirty bitmaps, with QEMU's arguments. A `node` is a volume's name.

/// Makes a bitmap.
package enum BlockDirtyBitmapAdd: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-add"
    package static let summary = "add a dirty bitmap to a volume"

    package struct Arguments: Codable, Sendable {
        package var node: String
        package var name: String
        /// Bytes, a power of two from 512.
        package var granularity: UInt32?
        /// Absent: false, as in QEMU.
        package var persistent: Bool?
        /// Absent: false, so that it records from the start.
        package var disabled: Bool?

        package init(
            node: String, name: String, granularity: UInt32? = nil, persistent: Bool? = nil,
            disabled: Bool? = nil
        ) {
            self.node = node
            self.name = name
            self.granularity = granularity
            self.persistent = persistent
            self.disabled = disabled
        }
    }
}

/// Deletes a bitmap; the only operation that an inconsistent one allows.
package enum BlockDirtyBitmapRemove: ControlCommand {
    package typealias Arguments = BitmapReference
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-remove"
    package static let summary = "delete a dirty bitmap"
}

/// Makes a bitmap all clean.
package enum BlockDirtyBitmapClear: ControlCommand {
    package typealias Arguments = BitmapReference
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-clear"
    package static let summary = "mark everything clean in a dirty bitmap"
}

/// Makes a bitmap record writes.
package enum BlockDirtyBitmapEnable: ControlCommand {
    package typealias Arguments = BitmapReference
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-enable"
    package static let summary = "let a dirty bitmap record writes"
}

/// Makes a bitmap stop recording.
package enum BlockDirtyBitmapDisable: ControlCommand {
    package typealias Arguments = BitmapReference
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-disable"
    package static let summary = "stop a dirty bitmap from recording writes"
}

/// Adds the dirt of some bitmaps to another.
package enum BlockDirtyBitmapMerge: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-dirty-bitmap-merge"
    package static let summary = "merge dirty bitmaps into a target; all or nothing"

    package struct Arguments: Codable, Sendable {
        package var node: String
        package var target: String
        package var bitmaps: [BitmapSource]

        package init(node: String, target: String, bitmaps: [BitmapSource]) {
            self.node = node
            self.target = target
            self.bitmaps = bitmaps
        }
    }
}

/// Digests the bits of a bitmap, so that two can be compared.
package enum DebugBitmapDigest: ControlCommand {
    package typealias Arguments = BitmapReference

    package static let name = "x-debug-block-dirty-bitmap-sha256"
    package static let summary = "the SHA-256 of a dirty bitmap's bits"

    package struct Result: Codable, Sendable {
        /// Of one bit for each granule, the first in the lowest bit of the first byte, in whole
        /// words of 8 bytes; in lower-case hexadecimal.
        package var sha256: String

        package init(sha256: String) { self.sha256 = sha256 }
    }
}

/// Describes the bitmaps of a volume.
package enum QueryDirtyBitmaps: ControlCommand {
    package typealias Result = [BitmapInfo]

    package static let name = "query-dirty-bitmaps"
    package static let summary = "the dirty bitmaps of a volume, or one of them"

    package struct Arguments: Codable, Sendable {
        package var node: String
        package var name: String?

        package init(node: String, name: String? = nil) {
            self.node = node
            self.name = name
        }
    }
}

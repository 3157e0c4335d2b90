/// Opens a node: an image, an export, or a filter over another node. It lasts until `blockdev-del`, or
/// until the agent ends.
package enum BlockdevAdd: ControlCommand {
    package typealias Arguments = BlockdevOptions
    package typealias Result = Nothing

    package static let name = "blockdev-add"
    package static let summary = "open a node of the block graph"
}

/// Closes a node that nothing uses.
package enum BlockdevDelete: ControlCommand {
    package typealias Result = Nothing

    package static let name = "blockdev-del"
    package static let summary = "close a node that nothing uses"

    package struct Arguments: Codable, Sendable {
        package var nodeName: String

        package init(nodeName: String) { self.nodeName = nodeName }

        private enum CodingKeys: String, CodingKey {
            case nodeName = "node-name"
        }
    }
}

/// Puts an overlay that is open as a node over the images of a volume. The node becomes a part of the
/// volume.
package enum BlockdevSnapshot: ControlCommand {
    package typealias Result = Nothing

    package static let name = "blockdev-snapshot"
    package static let summary = "put a node over the images of a volume"

    package struct Arguments: Codable, Sendable {
        /// The volume.
        package var node: String
        /// A qcow2 node that was opened with `backing` null, and whose header names the volume's top
        /// image as its backing file.
        package var overlay: String

        package init(node: String, overlay: String) {
            self.node = node
            self.overlay = overlay
        }
    }
}

/// Makes something that nodes share: a group of limits for throttle nodes.
package enum ObjectAdd: ControlCommand {
    package typealias Result = Nothing

    package static let name = "object-add"
    package static let summary = "make a throttle group"

    package struct Arguments: Codable, Sendable {
        package var qomType: ObjectType
        package var id: String
        /// Absent: none.
        package var limits: ThrottleGroupLimits?

        package init(id: String, limits: ThrottleGroupLimits) {
            qomType = .throttleGroup
            self.id = id
            self.limits = limits
        }

        private enum CodingKeys: String, CodingKey {
            case id, limits
            case qomType = "qom-type"
        }
    }
}

/// Removes what `object-add` made, unless it is in use.
package enum ObjectDelete: ControlCommand {
    package typealias Result = Nothing

    package static let name = "object-del"
    package static let summary = "remove a throttle group that no node uses"

    package struct Arguments: Codable, Sendable {
        package var id: String

        package init(id: String) { self.id = id }
    }
}

/// What `object-add` can make.
package enum ObjectType: String, Codable, Sendable, CaseIterable {
    case throttleGroup = "throttle-group"
}

/// The limits of a throttle group, of bytes and requests a second; 0 or absent is none. A `-max` is what
/// may come in a second of a burst, for `-max-length` seconds.
package struct ThrottleGroupLimits: Codable, Sendable, Equatable {
    package var bpsTotal: UInt64?
    package var bpsTotalMax: UInt64?
    package var bpsTotalMaxLength: UInt64?
    package var bpsRead: UInt64?
    package var bpsReadMax: UInt64?
    package var bpsReadMaxLength: UInt64?
    package var bpsWrite: UInt64?
    package var bpsWriteMax: UInt64?
    package var bpsWriteMaxLength: UInt64?
    package var iopsTotal: UInt64?
    package var iopsTotalMax: UInt64?
    package var iopsTotalMaxLength: UInt64?
    package var iopsRead: UInt64?
    package var iopsReadMax: UInt64?
    package var iopsReadMaxLength: UInt64?
    package var iopsWrite: UInt64?
    package var iopsWriteMax: UInt64?
    package var iopsWriteMaxLength: UInt64?
    /// A request of more bytes counts as several.
    package var iopsSize: UInt64?

    package init() {}

    private enum CodingKeys: String, CodingKey {
        case bpsTotal = "bps-total"
        case bpsTotalMax = "bps-total-max"
        case bpsTotalMaxLength = "bps-total-max-length"
        case bpsRead = "bps-read"
        case bpsReadMax = "bps-read-max"
        case bpsReadMaxLength = "bps-read-max-length"
        case bpsWrite = "bps-write"
        case bpsWriteMax = "bps-write-max"
        case bpsWriteMaxLength = "bps-write-max-length"
        case iopsTotal = "iops-total"
        case iopsTotalMax = "iops-total-max"
        case iopsTotalMaxLength = "iops-total-max-length"
        case iopsRead = "iops-read"
        case iopsReadMax = "iops-read-max"
        case iopsReadMaxLength = "iops-read-max-length"
        case iopsWrite = "iops-write"
        case iopsWriteMax = "iops-write-max"
        case iopsWriteMaxLength = "iops-write-max-length"
        case iopsSize = "iops-size"
    }
}

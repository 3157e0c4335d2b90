/// Offers a volume, or a restore point, to NBD clients.
package enum BlockExportAdd: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-export-add"
    package static let summary = "offer a volume or a restore point to NBD clients"

    package struct Arguments: Codable, Sendable {
        package var type: ExportType
        package var id: String
        /// The volume; this or `point`.
        package var nodeName: String?
        /// A restore point, named as in `point-resolve`; it is never writable.
        package var point: String?
        /// What clients ask for; absent: the volume's name, or the point's id.
        package var name: String?
        package var description: String?
        /// Absent: false, as in QEMU.
        package var writable: Bool?
        /// The dirty bitmaps of the volume that are offered; absent: none, as in QEMU.
        package var bitmaps: [BitmapSource]?

        package init(
            id: String, nodeName: String? = nil, point: String? = nil, name: String? = nil,
            description: String? = nil, writable: Bool? = nil, bitmaps: [BitmapSource]? = nil
        ) {
            type = .nbd
            self.id = id
            self.nodeName = nodeName
            self.point = point
            self.name = name
            self.description = description
            self.writable = writable
            self.bitmaps = bitmaps
        }

        private enum CodingKeys: String, CodingKey {
            case type, id, point, name, description, writable, bitmaps
            case nodeName = "node-name"
        }
    }
}

/// Takes an export away. The event BLOCK_EXPORT_DELETED follows.
package enum BlockExportDelete: ControlCommand {
    package typealias Result = Nothing

    package static let name = "block-export-del"
    package static let summary = "take an export away, if nobody uses it or by force"

    package struct Arguments: Codable, Sendable {
        package var id: String
        /// Absent: safe.
        package var mode: ExportRemoveMode?

        package init(id: String, mode: ExportRemoveMode? = nil) {
            self.id = id
            self.mode = mode
        }
    }
}

/// Describes the exports.
package enum QueryBlockExports: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [ExportInfo]

    package static let name = "query-block-exports"
    package static let summary = "what the NBD server offers"
}

/// The kinds of exports.
package enum ExportType: String, Codable, Sendable, CaseIterable {
    case nbd
}

/// What becomes of the clients of an export that is taken away.
package enum ExportRemoveMode: String, Codable, Sendable, CaseIterable {
    /// As long as there are any, the export stays.
    case safe
    /// They lose it.
    case hard
}

/// One export. The members up to `shutting-down` are QEMU's.
package struct ExportInfo: Codable, Sendable, Equatable {
    package var id: String
    package var type: ExportType
    /// The volume, or the id of the restore point.
    package var nodeName: String
    package var shuttingDown: Bool
    /// What clients ask for.
    package var name: String
    package var description: String
    package var uri: String
    package var writable: Bool
    /// The names of the dirty bitmaps that are offered.
    package var bitmaps: [String]
    /// How many clients use it.
    package var connections: Int

    package init(
        id: String, nodeName: String, shuttingDown: Bool, name: String, description: String,
        uri: String, writable: Bool, bitmaps: [String], connections: Int
    ) {
        self.id = id
        type = .nbd
        self.nodeName = nodeName
        self.shuttingDown = shuttingDown
        self.name = name
        self.description = description
        self.uri = uri
        self.writable = writable
        self.bitmaps = bitmaps
        self.connections = connections
    }

    private enum CodingKeys: String, CodingKey {
        case id, type, name, description, uri, writable, bitmaps, connections
        case nodeName = "node-name"
        case shuttingDown = "shutting-down"
    }
}

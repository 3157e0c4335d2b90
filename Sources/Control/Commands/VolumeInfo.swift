/// One volume, as `query-volumes` shows it.
package struct VolumeInfo: Codable, Sendable {
    package var name: String
    package var uuid: String
    /// Bytes.
    package var size: UInt64
    package var format: String
    /// The file of the top node.
    package var path: String
    /// The backing chain, top first.
    package var nodes: [NodeInfo]
    package var bitmaps: [BitmapInfo]
    /// Whether the NBD server offers it.
    package var exported: Bool
    /// Where clients find it.
    package var uri: String
    /// What it is up to: "open", or why it is not.
    package var state: String
    /// Why the state is what it is, where that needs saying.
    package var reason: String?
    /// How many NBD clients use it.
    package var connections: Int
    /// What its bitmaps survive: "power" or "process".
    package var durability: String
    /// What is done about what only images below the top hold: "cow", "cor" or "stream".
    package var backingMode: String

    package init(
        name: String, uuid: String, size: UInt64, format: String, path: String,
        nodes: [NodeInfo], bitmaps: [BitmapInfo], exported: Bool, uri: String, state: String,
        reason: String? = nil, connections: Int, durability: String = "power",
        backingMode: String = "cow"
    ) {
        self.name = name
        self.uuid = uuid
        self.size = size
        self.format = format
        self.path = path
        self.nodes = nodes
        self.bitmaps = bitmaps
        self.exported = exported
        self.uri = uri
        self.state = state
        self.reason = reason
        self.connections = connections
        self.durability = durability
        self.backingMode = backingMode
    }

    private enum CodingKeys: String, CodingKey {
        case name, uuid, size, format, path, nodes, bitmaps, exported, uri, state, reason
        case connections, durability
        case backingMode = "backing-mode"
    }
}

/// One opened image of a chain.
package struct NodeInfo: Codable, Sendable {
    package var driver: String
    package var file: String
    package var format: String
    /// Whether its content bypasses the host's page cache.
    package var direct: Bool
    /// The file in which a qcow2 image keeps its data, if it does not do so itself and is open.
    package var dataFile: String?

    package init(
        driver: String, file: String, format: String, direct: Bool = false, dataFile: String? = nil
    ) {
        self.driver = driver
        self.file = file
        self.format = format
        self.direct = direct
        self.dataFile = dataFile
    }

    private enum CodingKeys: String, CodingKey {
        case driver, file, format, direct
        case dataFile = "data-file"
    }
}

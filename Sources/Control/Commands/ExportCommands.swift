/// Describes the NBD exports.
package enum QueryExports: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [ExportInfo]

    package static let name = "query-exports"
    package static let summary = "what the NBD server offers"
}

/// One NBD export.
package struct ExportInfo: Codable, Sendable, Equatable {
    package var name: String
    package var volume: String
    package var uri: String
    package var readOnly: Bool
    package var connections: Int

    package init(name: String, volume: String, uri: String, readOnly: Bool, connections: Int) {
        self.name = name
        self.volume = volume
        self.uri = uri
        self.readOnly = readOnly
        self.connections = connections
    }

    private enum CodingKeys: String, CodingKey {
        case name, volume, uri, connections
        case readOnly = "read-only"
    }
}

// QEMU's commands on its one NBD server. The agent's own socket is always there; these open another
// one to the same exports, where a client of QEMU's protocol expects it.

/// Listens on one more socket.
package enum NBDServerStart: ControlCommand {
    package typealias Result = Nothing

    package static let name = "nbd-server-start"
    package static let summary = "offer the exports on one more socket"

    package struct Arguments: Codable, Sendable {
        package var addr: SocketAddress
        /// Absent: 100, as in QEMU; 0 for as many as the agent's own socket takes.
        package var maxConnections: UInt32?

        package init(addr: SocketAddress, maxConnections: UInt32? = nil) {
            self.addr = addr
            self.maxConnections = maxConnections
        }

        private enum CodingKeys: String, CodingKey {
            case addr
            case maxConnections = "max-connections"
        }
    }
}

/// Closes that socket. The exports stay, on the agent's own.
package enum NBDServerStop: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = Nothing

    package static let name = "nbd-server-stop"
    package static let summary = "close the socket of nbd-server-start, and its clients"
}

/// Offers a volume; the older form of `block-export-add`.
package enum NBDServerAdd: ControlCommand {
    package typealias Result = Nothing

    package static let name = "nbd-server-add"
    package static let summary = "offer a volume to NBD clients; block-export-add says more"

    package struct Arguments: Codable, Sendable {
        /// The volume.
        package var device: String
        /// What clients ask for, and the id of the export; absent: the volume's name.
        package var name: String?
        package var description: String?
        /// Absent: false.
        package var writable: Bool?
        /// One dirty bitmap of the volume that is offered.
        package var bitmap: String?

        package init(
            device: String, name: String? = nil, description: String? = nil,
            writable: Bool? = nil, bitmap: String? = nil
        ) {
            self.device = device
            self.name = name
            self.description = description
            self.writable = writable
            self.bitmap = bitmap
        }
    }
}

/// Takes an export away; the older form of `block-export-del`.
package enum NBDServerRemove: ControlCommand {
    package typealias Result = Nothing

    package static let name = "nbd-server-remove"
    package static let summary = "take an export away; block-export-del does the same"

    package struct Arguments: Codable, Sendable {
        package var name: String
        /// Absent: safe.
        package var mode: ExportRemoveMode?

        package init(name: String, mode: ExportRemoveMode? = nil) {
            self.name = name
            self.mode = mode
        }
    }
}

/// Where to listen.
package enum SocketAddress: Codable, Sendable, Equatable, ReflectedUnion {
    case unix(UnixPath)
    case inet(HostAndPort)

    /// What an address of the kind `unix` consists of.
    package struct UnixPath: Codable, Sendable, Equatable {
        package var path: String

        package init(path: String) { self.path = path }
    }

    /// What an address of the kind `inet` consists of.
    package struct HostAndPort: Codable, Sendable, Equatable {
        package var host: String
        package var port: String

        package init(host: String, port: String) {
            self.host = host
            self.port = port
        }
    }

    static var kinds: any Decodable.Type { SocketAddressKind.self }
    static var sample: SocketAddress { .unix(UnixPath(path: "")) }
    static var variants: [(String, any Decodable.Type)] {
        SocketAddressKind.allCases.map { ($0.rawValue, $0.dataType) }
    }

    private enum CodingKeys: CodingKey {
        case type, data
    }

    package init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        self =
            switch try members.decode(SocketAddressKind.self, forKey: .type) {
            case .unix: .unix(try members.decode(UnixPath.self, forKey: .data))
            case .inet: .inet(try members.decode(HostAndPort.self, forKey: .data))
            }
    }

    package func encode(to encoder: any Encoder) throws {
        var members = encoder.container(keyedBy: CodingKeys.self)
        switch self {
        case .unix(let path):
            try members.encode(SocketAddressKind.unix, forKey: .type)
            try members.encode(path, forKey: .data)
        case .inet(let address):
            try members.encode(SocketAddressKind.inet, forKey: .type)
            try members.encode(address, forKey: .data)
        }
    }
}

/// The kinds of addresses.
package enum SocketAddressKind: String, Codable, Sendable, CaseIterable {
    case unix
    /// TCP; to listen, on this host only.
    case inet

    var dataType: any Decodable.Type {
        switch self {
        case .unix: SocketAddress.UnixPath.self
        case .inet: SocketAddress.HostAndPort.self
        }
    }
}

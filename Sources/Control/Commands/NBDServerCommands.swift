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
package struct SocketAddress: Codable, Sendable, Equatable {
    /// The kinds of addresses.
    package enum Kind: String, Codable, Sendable, CaseIterable {
        case unix
    }

    /// What an address of the kind `unix` consists of.
    package struct UnixPath: Codable, Sendable, Equatable {
        package var path: String

        package init(path: String) { self.path = path }
    }

    package var type: Kind
    package var data: UnixPath

    package init(path: String) {
        type = .unix
        data = UnixPath(path: path)
    }
}

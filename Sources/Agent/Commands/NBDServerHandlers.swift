import Control
import NBDServer
import Nodes

extension Agent {
    /// QEMU's commands on its NBD server, in terms of exports and one more socket.
    func registerNBDServerCommands(in table: inout CommandTable) {
        table.on(NBDServerStart.self) { arguments in
            let connectionsMax = arguments.maxConnections ?? 100
            try await secondSocket.start(
                at: NBDAddress(arguments.addr),
                connectionsMax: connectionsMax == 0 ? nil : Int(connectionsMax))
            return Nothing()
        }
        table.on(NBDServerStop.self) { _ in
            try await secondSocket.stop()
            return Nothing()
        }
        table.on(NBDServerAdd.self) { arguments in
            let name = arguments.name ?? arguments.device
            guard (try? await nodes.find(arguments.device)) != nil else {
                throw ControlError.noSuchNode(arguments.device)
            }
            return try await addExport(
                .init(
                    id: name, nodeName: arguments.device, name: name,
                    description: arguments.description, writable: arguments.writable,
                    bitmaps: arguments.bitmap.map { [.local($0)] }))
        }
        table.on(NBDServerRemove.self) { arguments in
            try await deleteExport(.init(id: arguments.name, mode: arguments.mode))
        }
    }
}

extension NBDAddress {
    fileprivate init(_ address: SocketAddress) {
        self =
            switch address {
            case .unix(let socket): .unix(path: socket.path)
            case .inet(let socket): .loopback(host: socket.host, port: socket.port)
            }
    }
}

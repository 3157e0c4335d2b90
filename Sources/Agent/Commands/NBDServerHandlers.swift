import Control

extension Agent {
    /// QEMU's commands on its NBD server, in terms of exports and one more socket.
    func registerNBDServerCommands(in table: inout CommandTable) {
        table.on(NBDServerStart.self) { arguments in
            let connectionsMax = arguments.maxConnections ?? 100
            try await secondSocket.start(
                path: arguments.addr.data.path,
                connectionsMax: connectionsMax == 0 ? nil : Int(connectionsMax))
            return Nothing()
        }
        table.on(NBDServerStop.self) { _ in
            try await secondSocket.stop()
            return Nothing()
        }
        table.on(NBDServerAdd.self) { arguments in
            let name = arguments.name ?? arguments.device
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

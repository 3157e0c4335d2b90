import BlockCore
import Control
import Jobs
import NBDServer
import Nodes
import Repository
import Volumes

extension Agent {
    /// What adds, lists and removes exports.
    func registerExportCommands(in table: inout CommandTable) {
        table.on(BlockExportAdd.self) { try await addExport($0) }
        table.on(BlockExportDelete.self) { try await deleteExport($0) }
        table.on(QueryBlockExports.self) { _ in
            var infos: [ExportInfo] = []
            for export in await exports.all() {
                infos.append(
                    ExportInfo(
                        id: export.id, nodeName: export.nodeName,
                        shuttingDown: await exports.isLeaving(export.id), name: export.name,
                        description: export.description,
                        uri: configuration.uri(ofExport: export.name),
                        writable: !export.isReadOnly, bitmaps: export.bitmapNames,
                        connections: export.connectionCount))
            }
            return infos
        }
    }

    /// Takes an export away from whoever uses it.
    func removeExport(_ id: String) async {
        if await exports.remove(id, isHard: true) == .removed {
            events.broadcast(exportDeleted: id)
        }
    }

    /// `block-export-del`.
    func deleteExport(_ arguments: BlockExportDelete.Arguments) async throws -> Nothing {
        switch await exports.remove(arguments.id, isHard: arguments.mode == .hard) {
        case .removed: events.broadcast(exportDeleted: arguments.id)
        case .absent: throw ControlError.noSuchExport(arguments.id)
        case .inUse(let clients):
            throw ControlError.exportInUse(arguments.id, clients: clients)
        }
        return Nothing()
    }

    /// `block-export-add`.
    func addExport(_ arguments: BlockExportAdd.Arguments) async throws -> Nothing {
        guard await exports.export(arguments.id) == nil else {
            throw ControlError.exportExists(arguments.id)
        }
        let export: any AgentExport
        switch (arguments.nodeName, arguments.point) {
        case (let name?, nil):
            if let node = await nodes.node(name) {
                export = try await nodeExport(node, arguments)
            } else {
                export = try await volumeExport(name, arguments)
            }
        case (nil, let point?): export = try await pointExport(point, arguments)
        default:
            throw ControlError.generic("Give one of the parameters 'node-name' and 'point'")
        }
        do throws(BlockError) {
            try await exports.add(export)
        } catch {
            await export.wasRemoved()
            throw error
        }
        return Nothing()
    }

    private func volumeExport(
        _ name: String, _ arguments: BlockExportAdd.Arguments
    ) async throws -> any AgentExport {
        let volume: Volume
        do throws(BlockError) { volume = try await volumes.volume(name) } catch {
            guard error.kind == .notFound else { throw error }
            throw ControlError.noSuchNode(device: nil, nodeName: name)
        }
        let isWritable = arguments.writable ?? false
        guard !isWritable || !volume.isReadOnly else {
            throw ControlError.generic("Cannot export volume '\(name)' writable: it is read-only")
        }
        var bitmaps: [String] = []
        for source in arguments.bitmaps ?? [] {
            switch source {
            case .local(let bitmap):
                guard volume.bitmapStatuses().contains(where: { $0.name == bitmap }) else {
                    throw ControlError.generic("Bitmap '\(bitmap)' is not found")
                }
                bitmaps.append(bitmap)
            case .external(let reference):
                guard reference.node == name else {
                    throw ControlError.generic(
                        "Bitmap '\(reference.name)' is of volume '\(reference.node)', not of the "
                            + "exported '\(name)'")
                }
                bitmaps.append(reference.name)
            }
        }
        guard Set(bitmaps).count == bitmaps.count else {
            throw ControlError.generic("Parameter 'bitmaps' names a bitmap twice")
        }
        try await volume.holdBitmaps(bitmaps)
        return VolumeExport(
            volume, id: arguments.id, name: arguments.name ?? name,
            description: arguments.description, isReadOnly: !isWritable,
            bitmaps: bitmaps, events: events, log: log)
    }

    /// Bitmaps are those of volumes: of the one that the node shows, unless another is named.
    private func nodeExport(
        _ node: Node, _ arguments: BlockExportAdd.Arguments
    ) async throws -> any AgentExport {
        let isWritable = arguments.writable ?? false
        guard !isWritable || !node.isReadOnly else {
            throw ControlError.generic("Cannot export read-only node as writable")
        }
        var bitmaps: [NodeExport.Bitmap] = []
        for source in arguments.bitmaps ?? [] {
            switch source {
            case .local(let name):
                guard let volume = node.volume else {
                    throw ControlError.generic("Bitmap '\(name)' is not found")
                }
                bitmaps.append(.init(volume: volume, name: name))
            case .external(let reference):
                bitmaps.append(
                    .init(volume: try await self.node(reference.node), name: reference.name))
            }
        }
        guard Set(bitmaps.map(\.name)).count == bitmaps.count else {
            throw ControlError.generic("Parameter 'bitmaps' names a bitmap twice")
        }
        try await node.use(for: NodeExport.user(arguments.id))
        var held: [NodeExport.Bitmap] = []
        do {
            for bitmap in bitmaps {
                guard bitmap.volume.lengthBytes == node.lengthBytes else {
                    throw ControlError.generic(
                        "Bitmap '\(bitmap.name)' is of another length than node '\(node.name)'")
                }
                try await bitmap.volume.holdBitmaps([bitmap.name])
                held.append(bitmap)
            }
        } catch {
            for bitmap in held { bitmap.volume.releaseBitmaps([bitmap.name]) }
            node.release(by: NodeExport.user(arguments.id))
            throw error
        }
        return NodeExport(
            node, id: arguments.id, name: arguments.name ?? node.name,
            description: arguments.description, isReadOnly: !isWritable, bitmaps: bitmaps,
            events: events, log: log)
    }

    private func pointExport(
        _ text: String, _ arguments: BlockExportAdd.Arguments
    ) async throws -> any AgentExport {
        guard arguments.writable != true else {
            throw ControlError.generic(
                "Cannot export a restore point writable: restore it as a volume instead")
        }
        guard arguments.bitmaps?.isEmpty != false else {
            throw ControlError.generic("A restore point has no bitmaps to export")
        }
        let point = try await PointFinder(repositories: repositories).resolve(text)
        let device = try await point.repository.repository.openPoint(point.id)
        return PointExport(
            device, point: point, id: arguments.id, name: arguments.name,
            description: arguments.description)
    }
}

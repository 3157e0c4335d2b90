import BlockCore
import Catalog
import Control
import Foundation
import NBDServer
import Nodes
import Volumes

extension Agent {
    func registerVolumeCommands(in table: inout CommandTable) {
        table.on(VolumeCreate.self) { arguments in
            try await nodes.checkIsFree(arguments.name)
            let volume = try await volumes.create(try await specification(arguments))
            try await export(volume)
            try await setBackingMode(arguments.backingMode, of: volume)
            return Nothing()
        }
        table.on(VolumeImport.self) { arguments in
            try await nodes.checkIsFree(arguments.name)
            let (volume, warning) = try await volumes.add(
                arguments.name, path: arguments.file,
                format: arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) },
                isDirect: arguments.direct ?? false,
                reach: arguments.allowOutside == true ? .anywhere : .ownFolder,
                durability: Durability(arguments.durability))
            try await export(volume)
            try await setBackingMode(arguments.backingMode, of: volume)
            return VolumeImport.Result(warning: warning)
        }
        table.on(VolumeSet.self) { arguments in
            let volume = try await volumes.volume(arguments.name)
            try await setBackingMode(arguments.backingMode, of: volume)
            return Nothing()
        }
        table.on(VolumeRemove.self) { arguments in
            try await remove(arguments)
            return Nothing()
        }
        table.on(BlockResize.self) { arguments in
            try await resize(arguments)
            return Nothing()
        }
        table.on(QueryVolumes.self) { arguments in
            let infos = try await volumeInfos()
            guard let name = arguments.name else { return infos }
            guard let info = infos.first(where: { $0.name == name }) else {
                throw ControlError.noSuchNode(name)
            }
            return [info]
        }
    }

    private func setBackingMode(
        _ mode: VolumeBackingMode?, of volume: Volume
    ) async throws(BlockError) {
        guard let mode else { return }
        try await backingModes.set(BackingMode(mode), of: volume)
    }

    private func specification(
        _ arguments: VolumeCreate.Arguments
    ) async throws(BlockError) -> VolumeSpecification {
        let format = arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
        var backing: (path: String, format: Volumes.ImageFormat)?
        var backingBytes: UInt64?
        if let path = arguments.backing {
            guard
                let format = arguments.backingFormat.flatMap({
                    Volumes.ImageFormat(rawValue: $0.rawValue)
                })
            else {
                throw BlockError(
                    .invalid, "create the volume", on: arguments.name,
                    detail: "say which format \(path) has: it is never guessed")
            }
            let chain = try await IOPool.background.run { () throws(BlockError) in
                try ImageOpener.open(
                    path: path, format: format, readOnly: true,
                    reach: arguments.allowOutside == true ? .anywhere : .ownFolder,
                    pool: .background)
            }
            backing = (path, format)
            backingBytes = chain.top.lengthBytes
            try await chain.close()
        }
        guard let lengthBytes = arguments.size ?? backingBytes, lengthBytes > 0 else {
            throw BlockError(
                .invalid, "create the volume", on: arguments.name, detail: "give its size")
        }
        return VolumeSpecification(
            name: arguments.name, lengthBytes: lengthBytes, format: format ?? .qcow2,
            path: arguments.path, backing: backing, isDirect: arguments.direct ?? false,
            durability: Durability(arguments.durability))
    }

    /// A volume that somebody uses stays: its clients would lose their disk. Its exports go only
    /// when nothing else keeps it.
    private func remove(_ arguments: VolumeRemove.Arguments) async throws {
        let name = arguments.name
        let above = await nodes.names(onVolume: name)
        guard above.isEmpty else {
            throw BlockError(
                .busy, "remove the volume", on: name,
                detail: "the nodes \(above.joined(separator: ", ")) stand on it: remove them first")
        }
        // A client whose request is stuck would else be waited for.
        _ = try await exportsWithoutClients(ofVolume: name)
        await overlays.endStream(of: name)
        try await volumes.remove(
            name, deletingFiles: arguments.deleteFiles ?? false,
            storingBitmaps: arguments.storeBitmaps ?? false
        ) { () async throws(BlockError) in
            for export in try await exportsWithoutClients(ofVolume: name) {
                await removeExport(export.id)
            }
        }
        await overlays.releaseUnused()
    }

    private func exportsWithoutClients(
        ofVolume name: String
    ) async throws(BlockError) -> [any AgentExport] {
        let exports = await exports.exports(ofVolume: name)
        let clients = exports.reduce(0) { $0 + $1.connectionCount }
        guard clients == 0 else {
            throw BlockError(
                .busy, "remove the volume", on: name,
                detail: "it is in use by \(clients) NBD clients: disconnect them first")
        }
        return exports
    }

    /// A client that is connected would go on using what a cut takes away.
    private func resize(_ arguments: BlockResize.Arguments) async throws {
        let mayCut = arguments.shrink ?? false
        let names = [arguments.device, arguments.nodeName].compactMap { $0 }
        for name in names {
            if let node = await nodes.node(name) {
                return try await resize(node, to: arguments.size, mayCut: mayCut)
            }
        }
        var found: Volume?
        for name in names where found == nil {
            do throws(BlockError) { found = try await volumes.volume(name) } catch {
                guard error.kind == .notFound else { throw error }
            }
        }
        guard let volume = found else {
            throw ControlError.noSuchNode(
                device: arguments.device, nodeName: arguments.nodeName)
        }
        let clients = await exports.exports(ofVolume: volume.name)
            .reduce(0) { $0 + $1.connectionCount }
        guard clients == 0 || arguments.size >= volume.lengthBytes else {
            throw ControlError.generic(
                "Volume '\(volume.name)' is in use by \(clients) NBD clients: "
                    + "disconnect them before it is made shorter")
        }
        try await volume.resize(to: arguments.size, mayCut: mayCut)
    }

    private func volumeInfos() async throws -> [VolumeInfo] {
        let open = await volumes.volumes()
        let failures = await volumes.unavailable()
        let exported = await exports.all()
        return try await volumes.records().map { record, nodes in
            let volume = open.first { $0.id == record.id }
            let failure = failures.first { $0.name == record.name }
            let dataFiles = volume?.dataFilePaths ?? [:]
            let exports = exported.filter { !$0.isPoint && $0.nodeName == record.name }
            return VolumeInfo(
                name: record.name, uuid: record.uuid.uuidString.lowercased(),
                size: record.lengthBytes,
                format: nodes.first?.format ?? "", path: nodes.first?.path ?? "",
                nodes: nodes.map {
                    NodeInfo(
                        driver: $0.driver, file: $0.path, format: $0.format, direct: $0.isDirect,
                        dataFile: dataFiles[$0.path])
                },
                bitmaps: volume?.bitmapStatuses().map(BitmapInfo.init) ?? [],
                exported: exports.contains { $0.name == record.name },
                uri: configuration.uri(ofExport: record.name),
                state: volume == nil ? "unavailable" : "open",
                reason: failure?.reason.description,
                connections: exports.reduce(0) { $0 + $1.connectionCount },
                durability: record.durability.rawValue,
                backingMode: record.backingMode.rawValue)
        }
    }
}

extension Durability {
    fileprivate init(_ argument: VolumeDurability?) {
        switch argument ?? .power {
        case .power: self = .power
        case .process: self = .process
        }
    }
}

extension BackingMode {
    fileprivate init(_ argument: VolumeBackingMode) {
        switch argument {
        case .cow: self = .cow
        case .cor: self = .cor
        case .stream: self = .stream
        }
    }
}

import BlockCore
import Catalog
import Control
import Volumes

extension Agent {
    /// QEMU's commands on dirty bitmaps.
    func registerBitmapCommands(in table: inout CommandTable) {
        table.on(BlockDirtyBitmapAdd.self) { arguments in
            // Every bitmap here is persistent; the argument is QEMU's and changes nothing.
            try await volumes.volume(arguments.node).addBitmap(
                arguments.name, granularityBytes: arguments.granularity.map(UInt64.init),
                isRecording: !(arguments.disabled ?? false))
            return Nothing()
        }
        table.on(BlockDirtyBitmapRemove.self) { arguments in
            try await node(arguments.node).removeBitmap(arguments.name)
            return Nothing()
        }
        table.on(BlockDirtyBitmapClear.self) { arguments in
            try await node(arguments.node).clearBitmap(arguments.name)
            return Nothing()
        }
        table.on(BlockDirtyBitmapEnable.self) { arguments in
            try await node(arguments.node).setBitmap(arguments.name, recording: true)
            return Nothing()
        }
        table.on(BlockDirtyBitmapDisable.self) { arguments in
            try await node(arguments.node).setBitmap(arguments.name, recording: false)
            return Nothing()
        }
        table.on(BlockDirtyBitmapMerge.self) { arguments in
            try await merge(arguments)
            return Nothing()
        }
        table.on(DebugBitmapDigest.self) { arguments in
            let volume = try await node(arguments.node)
            return DebugBitmapDigest.Result(sha256: try volume.digest(ofBitmap: arguments.name))
        }
        table.on(QueryDirtyBitmaps.self) { arguments in
            let bitmaps = try await volumes.volume(arguments.node).bitmapStatuses()
                .map(BitmapInfo.init)
            guard let name = arguments.name else { return bitmaps }
            guard let bitmap = bitmaps.first(where: { $0.name == name }) else {
                throw ControlError.generic("Dirty bitmap '\(name)' not found")
            }
            return [bitmap]
        }
    }

    /// The volume of a bitmap that should be there already.
    func node(_ name: String) async throws -> Volume {
        do throws(BlockError) {
            return try await volumes.volume(name)
        } catch {
            guard error.kind == .notFound, error.operation == "find the volume" else { throw error }
            throw ControlError.noSuchBitmapNode(name)
        }
    }

    private func merge(_ arguments: BlockDirtyBitmapMerge.Arguments) async throws {
        try await node(arguments.node).mergeBitmaps(
            sources(of: arguments), into: arguments.target)
    }

    /// The bitmaps that are to be merged.
    func sources(
        of arguments: BlockDirtyBitmapMerge.Arguments
    ) async throws -> [BitmapLocation] {
        var sources: [BitmapLocation] = []
        for bitmap in arguments.bitmaps {
            switch bitmap {
            case .local(let name):
                sources.append(
                    BitmapLocation(volume: try await node(arguments.node), name: name))
            case .external(let reference):
                sources.append(
                    BitmapLocation(
                        volume: try await node(reference.node), name: reference.name))
            }
        }
        return sources
    }
}

extension BitmapInfo {
    init(_ status: BitmapStatus) {
        self.init(
            name: status.name, count: status.dirtyBytes,
            granularity: UInt32(status.granularityBytes), recording: status.isRecording,
            busy: status.isBusy, persistent: true,
            inconsistent: status.inconsistentReason == nil ? nil : true,
            reason: status.inconsistentReason, continuesPoint: status.continues?.pointID)
    }
}

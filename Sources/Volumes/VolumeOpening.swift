import Bitmaps
import BlockCore
import Catalog
import Foundation

// How a volume comes to life.
//
// After an unclean stop the catalog still holds regions of the activity log: each was announced
// before it was written. They are marked dirty in every bitmap that was recording, in memory, and
// stay in the log, as they were before the stop: at no instant does the durable state cover less.
// Cold as they are, `Retirement` takes them out little by little. So a start commits the same few
// rows whatever the size of its volumes. A clean stop leaves an empty log, and nothing is marked.
//
// Before that the images are compared with what is recorded of them (`ImageTrust`). If something
// else may have written them, the bitmaps become inconsistent, in the same transaction.

enum VolumeOpening {
    /// Adds a volume of an opened chain to the catalog.
    static func create(
        name: String, chain: ImageChain, lengthBytes: UInt64, isOwned: Bool,
        origin: VolumeOrigin? = nil, bitmaps: [ImportedBitmap] = [], durability: Durability,
        queue: CatalogQueue
    ) async throws(BlockError) -> Volume {
        let nodes = chain.nodes.enumerated().map { position, node in
            node.record(isOwned: isOwned && position == 0)
        }
        try await IOPool.guest.run { () throws(BlockError) in try chain.flushTimes() }
        let record = try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                let volume = VolumeRecord(
                    name: name, lengthBytes: lengthBytes,
                    regionBytes: ActivityLog.regionBytes(forLength: lengthBytes),
                    durability: durability)
                guard let origin else {
                    let volume = try transaction.insertVolume(volume, nodes: nodes)
                    for bitmap in bitmaps { try bitmap.insert(intoVolume: volume.id, transaction) }
                    return volume
                }
                return try transaction.insertRestoredVolume(volume, nodes: nodes, origin)
            }
        }
        do throws(BlockError) {
            let opened = OpenedChain(record: record, nodes: nodes, chain: chain)
            return try await start([opened], queue: queue)[0].get()
        } catch {
            try await queue.run { (catalog) throws(BlockError) in
                try catalog.writing { (transaction) throws(CatalogError) in
                    try transaction.deleteVolume(record.id)
                }
            }
            throw error
        }
    }

    /// The images of a volume, open and locked.
    struct OpenedChain: Sendable {
        let record: VolumeRecord
        let nodes: [NodeRecord]
        let chain: ImageChain
    }

    /// Opens the images of a volume of the catalog.
    static func openChain(
        of record: VolumeRecord, _ nodes: [NodeRecord]
    ) async throws(BlockError) -> OpenedChain {
        guard let node = nodes.first, let format = ImageFormat(rawValue: node.format) else {
            throw BlockError(
                .corrupt, "open the volume", on: record.name,
                detail: "the catalog names no top node of a known format")
        }
        let chain = try await IOPool.guest.run { () throws(BlockError) in
            let chain = try ImageOpener.open(
                path: node.path, format: format, readOnly: false, isDirect: node.isDirect,
                pool: .guest)
            do throws(BlockError) { try chain.flushTimes() } catch {
                chain.unlock()
                throw error
            }
            return chain
        }
        return OpenedChain(record: record, nodes: nodes, chain: chain)
    }

    /// Brings the bitmaps of volumes whose images are open in order, all in one transaction. One
    /// for which that fails stops no other.
    static func start(
        _ opened: [OpenedChain], queue: CatalogQueue
    ) async throws(BlockError) -> [Result<Volume, BlockError>] {
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                opened.map { opened in
                    do throws(BlockError) {
                        return .success(try start(opened, in: transaction, queue))
                    } catch {
                        return .failure(error)
                    }
                }
            }
        }
    }

    private static func start(
        _ opened: OpenedChain, in transaction: CatalogTransaction, _ queue: CatalogQueue
    ) throws(BlockError) -> Volume {
        let (record, chain) = (opened.record, opened.chain)
        guard chain.top.lengthBytes >= record.lengthBytes else {
            throw BlockError(
                .corrupt, "open the volume", on: record.name,
                detail: "\(chain.nodes[0].path) has \(chain.top.lengthBytes) bytes, "
                    + "\(record.lengthBytes) are recorded: it was cut by something else")
        }
        do throws(CatalogError) {
            let doubt = ImageTrust.doubt(
                record, recorded: expected(opened), found: chain.nodes)
            if let doubt { try transaction.distrustBitmaps(ofVolume: record.id, reason: doubt) }
            let table = try loadBitmaps(of: record, from: transaction)
            let volume = Volume(
                record: record, chain: chain, doubt: doubt, bitmaps: table, queue: queue)
            try resumeLog(of: volume, table.recording, in: transaction)
            try transaction.setOpened(volume: record.id, bootID: HostBoot.currentID)
            try transaction.beat([record.id], at: Date())
            try transaction.setNodes(updated(opened.nodes, by: chain), ofVolume: record.id)
            return volume
        } catch {
            throw BlockError(catalog: error, "open the volume \(record.name)")
        }
    }

    /// The recorded nodes that are to be found: without those that are leaving if the images that
    /// stay had come so far as to name them no more (`Volume.dropImages`).
    private static func expected(_ opened: OpenedChain) -> [NodeRecord] {
        let staying = opened.nodes.filter { $0.change != .leaving }
        return opened.chain.nodes.count == staying.count ? staying : opened.nodes
    }

    /// Marks what may have been written before an unclean stop, and keeps it in the log.
    private static func resumeLog(
        of volume: Volume, _ recording: [DirtyBitmap], in transaction: CatalogTransaction
    ) throws(CatalogError) {
        let regions = try transaction.announcedRegions(ofVolume: volume.id)
        guard !recording.isEmpty else { return try transaction.clearRegions(ofVolume: volume.id) }
        let beyond = regions.filter { volume.log.range(ofRegion: $0).isEmpty }
        try transaction.removeRegions(beyond, ofVolume: volume.id)
        for region in regions where !Mutant.forgetLogAfterCrash.isActive {
            for bitmap in recording { bitmap.mark(volume.log.range(ofRegion: region)) }
        }
        if Mutant.emptyLogAtOpen.isActive {
            return try transaction.clearRegions(ofVolume: volume.id)
        }
        volume.log.didCommit(regions.filter { !beyond.contains($0) }.map(Int.init))
    }

    /// The rows of the chain as it was found.
    private static func updated(_ nodes: [NodeRecord], by chain: ImageChain) -> [NodeRecord] {
        chain.nodes.map { node in
            node.record(isOwned: nodes.contains { $0.path == node.path && $0.isOwned })
        }
    }

    private static func loadBitmaps(
        of volume: VolumeRecord, from catalog: CatalogSnapshot
    ) throws(CatalogError) -> BitmapTable {
        let working = try catalog.workingBitmaps(ofVolume: volume.id)
        let records = try catalog.bitmaps(ofVolume: volume.id).filter { record in
            !working.contains { $0.bitmap.id == record.id }
        }
        var table = BitmapTable()
        for record in working {
            table.working.append(
                WorkingBitmap(
                    record, try load(record.bitmap, of: volume, from: catalog), continues: nil))
        }
        for record in records where record.successorOf == nil {
            var entry = BitmapEntry(
                record: record, bits: try load(record, of: volume, from: catalog))
            if let successor = records.first(where: { $0.successorOf == record.id }) {
                entry.successor = BitmapEntry.Successor(
                    record: successor, bits: try load(successor, of: volume, from: catalog))
            }
            table.entries.append(entry)
        }
        return table
    }

    private static func load(
        _ record: BitmapRecord, of volume: VolumeRecord, from catalog: CatalogSnapshot
    ) throws(CatalogError) -> DirtyBitmap {
        let bits: DirtyBitmap
        do throws(BlockError) {
            bits = try DirtyBitmap(
                lengthBytes: volume.lengthBytes, granularityBytes: record.granularityBytes)
        } catch {
            throw CatalogError(error, "load bitmap \(record.id) of volume \(volume.name)")
        }
        try catalog.loadChunks(ofBitmap: record.id, into: bits)
        return bits
    }
}

extension CatalogTransaction {
    /// Adds a volume that continues the chain of points of `origin`. It takes over the identity of
    /// the volume that was backed up if there is no such volume here, and else its points' alone.
    fileprivate func insertRestoredVolume(
        _ volume: VolumeRecord, nodes: [NodeRecord], _ origin: VolumeOrigin
    ) throws(CatalogError) -> VolumeRecord {
        var volume = volume
        if let uuid = UUID(uuidString: origin.volumeUUID) {
            let isTaken = try volumes().contains { $0.uuid == uuid || $0.pointUUID == uuid }
            if isTaken { volume.lineageUUID = uuid } else { volume.uuid = uuid }
        }
        volume = try insertVolume(volume, nodes: nodes)
        if let bitmap = origin.bitmap {
            _ = try insertBitmap(
                BitmapRecord(
                    volumeID: volume.id, name: bitmap.name,
                    granularityBytes: bitmap.granularityBytes, continues: bitmap.continues))
        }
        if let pin = origin.pinID { try givePin(pin, toVolume: volume.id) }
        return volume
    }
}

extension Catalog {
    /// Reads with the failure in the data plane's terms.
    func reading<T>(
        _ body: (CatalogSnapshot) throws(CatalogError) -> T
    ) throws(BlockError) -> T {
        do throws(CatalogError) { return try read(body) } catch {
            throw BlockError(catalog: error, "read")
        }
    }

    /// One transaction with the failure in the data plane's terms.
    func writing<T>(
        _ body: (CatalogTransaction) throws(CatalogError) -> T
    ) throws(BlockError) -> T {
        do throws(CatalogError) { return try write(body) } catch {
            throw BlockError(catalog: error, "change")
        }
    }
}

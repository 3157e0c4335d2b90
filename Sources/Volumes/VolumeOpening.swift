import Bitmaps
import BlockCore
import Catalog
import Foundation

// How a volume comes to life.
//
// After an unclean stop the catalog still holds regions of the activity log: each was announced
// before it was written. They are marked dirty in every bitmap that was recording, the marks are
// committed, and the regions leave the log in the same transaction: at no instant does the
// durable state cover less. A clean stop leaves an empty log, and nothing is marked.
//
// Before that the images are compared with what is recorded of them (`ImageTrust`). If something
// else may have written them, the bitmaps become inconsistent first, in a commit of its own.

enum VolumeOpening {
    /// Adds a volume of an opened chain to the catalog.
    static func create(
        name: String, chain: ImageChain, lengthBytes: UInt64, isOwned: Bool, queue: CatalogQueue
    ) async throws(BlockError) -> Volume {
        let nodes = chain.nodes.enumerated().map { position, node in
            NodeRecord(
                driver: node.driver, format: node.format.rawValue, path: node.path,
                isOwned: isOwned && position == 0,
                fingerprint: node.found.text, isDirect: node.isDirect)
        }
        let record = try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.insertVolume(
                    VolumeRecord(
                        name: name, lengthBytes: lengthBytes,
                        regionBytes: ActivityLog.regionBytes(forLength: lengthBytes)),
                    nodes: nodes)
            }
        }
        do throws(BlockError) {
            return try await start(record, nodes, chain, queue: queue)
        } catch {
            try await queue.run { (catalog) throws(BlockError) in
                try catalog.writing { (transaction) throws(CatalogError) in
                    try transaction.deleteVolume(record.id)
                }
            }
            throw error
        }
    }

    /// Opens a volume of the catalog.
    static func open(
        _ record: VolumeRecord, _ nodes: [NodeRecord], queue: CatalogQueue
    ) async throws(BlockError) -> Volume {
        let chain = try await openChain(of: record, nodes)
        do throws(BlockError) {
            return try await start(record, nodes, chain, queue: queue)
        } catch {
            chain.unlock()
            throw error
        }
    }

    /// Brings the bitmaps of a volume whose images are open in order.
    private static func start(
        _ record: VolumeRecord, _ nodes: [NodeRecord], _ chain: ImageChain, queue: CatalogQueue
    ) async throws(BlockError) -> Volume {
        guard chain.top.lengthBytes >= record.lengthBytes else {
            throw BlockError(
                .corrupt, "open the volume", on: record.name,
                detail: "\(chain.nodes[0].path) has \(chain.top.lengthBytes) bytes, "
                    + "\(record.lengthBytes) are recorded: it was cut by something else")
        }
        let doubt = ImageTrust.doubt(record, recorded: nodes, found: chain.nodes)
        try await IOPool.guest.run { () throws(BlockError) in try chain.flushTimes() }
        return try await queue.run { (catalog) throws(BlockError) in
            if let doubt {
                try catalog.writing { (transaction) throws(CatalogError) in
                    try transaction.distrustBitmaps(ofVolume: record.id, reason: doubt)
                }
            }
            let table = try loadBitmaps(of: record, from: catalog)
            let volume = Volume(
                record: record, chain: chain, doubt: doubt, bitmaps: table, queue: queue)
            let regions = try catalog.reading { (catalog) throws(CatalogError) in
                try catalog.announcedRegions(ofVolume: record.id)
            }
            for region in regions where !Mutant.forgetLogAfterCrash.isActive {
                let range = volume.log.range(ofRegion: region)
                for bitmap in table.recording { bitmap.mark(range) }
            }
            try volume.persistAll(in: catalog) { (transaction) throws(CatalogError) in
                try transaction.setCleanlyClosed(false, volume: record.id)
                try transaction.beat([record.id], at: Date())
                try transaction.setNodes(updated(nodes, by: chain), ofVolume: record.id)
            }
            return volume
        }
    }

    /// The rows of the chain as it was found.
    private static func updated(_ nodes: [NodeRecord], by chain: ImageChain) -> [NodeRecord] {
        chain.nodes.enumerated().map { position, node in
            NodeRecord(
                driver: node.driver, format: node.format.rawValue, path: node.path,
                isOwned: position < nodes.count && nodes[position].path == node.path
                    && nodes[position].isOwned,
                fingerprint: node.found.text, isDirect: node.isDirect)
        }
    }

    private static func openChain(
        of record: VolumeRecord, _ nodes: [NodeRecord]
    ) async throws(BlockError) -> ImageChain {
        guard let node = nodes.first, let format = ImageFormat(rawValue: node.format) else {
            throw BlockError(
                .corrupt, "open the volume", on: record.name,
                detail: "the catalog names no top node of a known format")
        }
        return try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.open(
                path: node.path, format: format, readOnly: false, isDirect: node.isDirect,
                pool: .guest)
        }
    }

    private static func loadBitmaps(
        of volume: VolumeRecord, from catalog: Catalog
    ) throws(BlockError) -> BitmapTable {
        let records = try catalog.reading { (catalog) throws(CatalogError) in
            try catalog.bitmaps(ofVolume: volume.id)
        }
        var table = BitmapTable()
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
        _ record: BitmapRecord, of volume: VolumeRecord, from catalog: Catalog
    ) throws(BlockError) -> DirtyBitmap {
        let bits = try DirtyBitmap(
            lengthBytes: volume.lengthBytes, granularityBytes: record.granularityBytes)
        try catalog.reading { (snapshot) throws(CatalogError) in
            try snapshot.loadChunks(ofBitmap: record.id, into: bits)
        }
        return bits
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

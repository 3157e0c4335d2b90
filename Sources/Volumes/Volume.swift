import Bitmaps
package import BlockCore
import Catalog
import Foundation
import Synchronization

/// A disk that the agent serves by name: a chain of nodes, its dirty bitmaps and the write path
/// that keeps them true.
///
/// A volume is itself a block device, the one that guests and jobs use. `Volume+Writing` has the
/// order of a write, `Volume+Bitmaps` what is done to bitmaps, `Freeze` the start of a backup.
package final class Volume: BlockDevice {
    package let id: Int64
    package let uuid: String
    package let name: String

    /// The exact length; the top node may be longer by less than its sector size.
    package let lengthBytes: UInt64

    /// The images that it consists of.
    let chain: ImageChain
    /// Why the bitmaps that there were at the start could not be trusted; nil if they could.
    package let doubt: String?
    /// The device that shows the whole chain.
    let top: any BlockDevice
    let log: ActivityLog
    let locks = RangeLock()
    let queue: CatalogQueue
    let bitmaps: Mutex<BitmapTable>
    /// How many exports offer each bitmap; grows on the catalog's thread only.
    let bitmapReaders = Mutex<[String: Int]>([:])

    /// What every write must do besides writing.
    struct WriteDuties {
        /// The bitmaps whose bits a write sets.
        var recording: [DirtyBitmap] = []
        /// The points whose old content a write keeps first.
        var points: [PointInTime] = []
    }

    /// `nonisolated(unsafe)` is safe because of the range lock: the duties are read only with a
    /// part of the volume held, and changed only with the whole of it held.
    nonisolated(unsafe) var duties = WriteDuties()

    init(
        record: VolumeRecord, chain: ImageChain, doubt: String? = nil,
        bitmaps table: BitmapTable, queue: CatalogQueue
    ) {
        id = record.id
        uuid = record.uuid.uuidString.lowercased()
        name = record.name
        lengthBytes = record.lengthBytes
        self.chain = chain
        self.doubt = doubt
        top = chain.top
        self.queue = queue
        log = ActivityLog(
            volumeID: record.id, lengthBytes: record.lengthBytes, regionBytes: record.regionBytes,
            queue: queue)
        duties.recording = table.recording
        bitmaps = Mutex(table)
    }

    package var nodeName: String { name }
    package var isReadOnly: Bool { top.isReadOnly }
    package var allocationUnitBytes: UInt64 { top.allocationUnitBytes }
    package var chainNodeCount: Int { top.chainNodeCount }

    /// Every byte of the volume.
    package var wholeRange: ByteRange { ByteRange(offset: 0, lengthBytes: lengthBytes) }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        return try top.tryRead(at: offset, into: destination)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        try await top.read(at: offset, into: destination)
    }

    package func flush() async throws(BlockError) {
        try await top.flush()
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        return try await top.extents(in: range, limit: limit)
    }

    /// Flushes and closes the nodes, makes the bitmaps durable with the nodes' fingerprints, and
    /// empties the log.
    ///
    /// The volume stays held: what comes later waits for ever instead of touching closed files.
    package func close() async throws(BlockError) {
        _ = await locks.acquire(wholeRange)
        try await closeHeld()
    }

    /// `close`, refused with nothing changed while a backup holds a bitmap. Returns what failed in
    /// closing; the volume is as unusable after that as after a close that went well.
    package func closeUnlessBusy() async throws(BlockError) -> BlockError? {
        let hold = await locks.acquire(wholeRange)
        guard frozenBitmaps().isEmpty else {
            locks.release(hold)
            throw BlockError(
                .busy, "close", on: name,
                detail: "it is being backed up: wait for the job or cancel it")
        }
        do throws(BlockError) { try await closeHeld() } catch { return error }
        return nil
    }

    private func closeHeld() async throws(BlockError) {
        if !isReadOnly { try await top.flush() }
        try await chain.closeDevices()
        // What is recorded must be what the closed images look like, with nobody else let in yet.
        let fingerprints = try await IOPool.background.run { [chain] () throws(BlockError) in
            try chain.seal()
        }
        try await queue.run { [self] (catalog) throws(BlockError) in
            try persistAll(in: catalog) { (transaction) throws(CatalogError) in
                try transaction.setCleanlyClosed(true, volume: id)
                try transaction.setFingerprints(fingerprints.map(\.text), ofVolume: id)
            }
        }
        chain.unlock()
    }

    /// Runs `body` on the catalog's thread at an instant at which no write is in flight; past the
    /// deadline everything is released unchanged and `busy` is thrown.
    ///
    /// Between several tries the held writes go on, so that one stuck write does not hold up all.
    func atQuietInstant<T: Sendable>(
        tries: Int = 1, deadline: Duration = .seconds(10),
        _ body: @escaping @Sendable (Catalog) throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        for _ in 0..<tries {
            guard let hold = await locks.acquire(wholeRange, within: deadline) else { continue }
            defer { locks.release(hold) }
            return try await queue.run(body)
        }
        throw BlockError(
            .busy, "hold the volume's writes", on: name,
            detail: "writes in flight did not finish within \(deadline)")
    }

    /// On the catalog's thread with the volume held: commits every changed chunk of every bitmap,
    /// removes all regions from the log, and whatever `change` does, in one transaction.
    ///
    /// With no write in flight the chunks say all that the regions said, so the regions may go.
    func persistAll(
        in catalog: Catalog,
        _ change: (CatalogTransaction) throws(CatalogError) -> Void
    ) throws(BlockError) {
        let changed = bitmaps.withLock { $0.takeDirtyChunks() }
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for taken in changed {
                    try transaction.putChunks(taken.chunks, ofBitmap: taken.bitmapID)
                }
                try transaction.clearRegions(ofVolume: id)
                try change(transaction)
            }
        } catch {
            for taken in changed { taken.bits.restoreUnpersisted(taken.chunks.map(\.index)) }
            // A commit that failed may yet show after a crash: its regions are announced again.
            log.didClear()
            throw BlockError(catalog: error, "save the bitmaps of \(name)")
        }
        log.didClear()
    }
}

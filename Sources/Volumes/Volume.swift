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
    /// What its points bear: of a restored volume, that of the volume that was backed up.
    package let uuid: String
    package let name: String

    /// The exact length; the top node may be longer.
    package var lengthBytes: UInt64 { length.load(ordering: .relaxed) }
    /// Changes with the whole volume held.
    let length: Atomic<UInt64>

    /// How long a close waits for writes that do not complete.
    static let closeLimit = Duration.seconds(30)

    /// The images that it consists of. Reads use them; everything else holds a part of the volume,
    /// so that they are replaced only with the whole of it held.
    let images: Switchable<ImageChain>
    package let isReadOnly: Bool
    /// Who is changing the images at the moment; nobody else may then.
    let chainUser = Mutex<String?>(nil)
    /// The jobs that have images for themselves. Its lock is taken after that of `chainUser`.
    let imageUsers = Mutex(ImageUsers())
    /// Whether it is the target of a mirror.
    let isTarget = Atomic(false)
    /// Whether what guests read is stored in the top.
    let isCopyOnRead: Atomic<Bool>
    /// Why the bitmaps that there were at the start could not be trusted; nil if they could.
    package let doubt: String?
    /// What its guests feel.
    package let guestLoad = GuestLoad()
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
        /// Who is told of every change before it is acknowledged.
        var followers: [any WriteFollower] = []
    }

    /// `nonisolated(unsafe)` is safe because of the range lock: the duties are read only with a
    /// part of the volume held, and changed only with the whole of it held.
    nonisolated(unsafe) var duties = WriteDuties()

    /// `nonisolated(unsafe)` is safe because it is read with a part of the volume held or on the
    /// catalog's thread, and replaced on that thread with the whole of it held.
    nonisolated(unsafe) var log: ActivityLog

    init(
        record: VolumeRecord, chain: ImageChain, doubt: String? = nil,
        bitmaps table: BitmapTable, queue: CatalogQueue
    ) {
        id = record.id
        uuid = record.pointUUID.uuidString.lowercased()
        name = record.name
        length = Atomic(record.lengthBytes)
        images = Switchable(chain)
        isReadOnly = chain.top.isReadOnly
        isCopyOnRead = Atomic(record.backingMode == .cor)
        self.doubt = doubt
        self.queue = queue
        log = ActivityLog(
            volumeID: record.id, lengthBytes: record.lengthBytes, regionBytes: record.regionBytes,
            durability: record.durability, queue: queue)
        duties.recording = table.recording
        bitmaps = Mutex(table)
    }

    package var nodeName: String { name }
    package var allocationUnitBytes: UInt64 { using { $0.top.allocationUnitBytes } }
    package var chainNodeCount: Int { using { $0.top.chainNodeCount } }

    /// The images, for who holds a part of the volume.
    var chain: ImageChain { images.current }

    /// The device that shows the whole chain, for who holds a part of the volume.
    var top: any BlockDevice { images.current.top }

    /// Looks at the images with nothing held.
    func using<T>(_ body: (ImageChain) -> T) -> T {
        let use = images.begin()
        defer { images.end(use) }
        return body(use.value)
    }

    /// What to hold in order to hold the whole volume, however long it becomes.
    static let allBytes = ByteRange(offset: 0, end: 1 << 63)

    /// Every byte of the volume.
    package var wholeRange: ByteRange { ByteRange(offset: 0, lengthBytes: lengthBytes) }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        let use = images.begin()
        defer { images.end(use) }
        return try use.value.top.tryRead(at: offset, into: destination)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        let use = images.begin()
        defer { images.end(use) }
        try await use.value.top.read(at: offset, into: destination)
    }

    package func flush() async throws(BlockError) {
        if Mutant.flushNothing.isActive { return }
        let use = images.begin()
        defer { images.end(use) }
        try await use.value.top.flush()
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        let use = images.begin()
        defer { images.end(use) }
        return try await use.value.top.extents(in: range, limit: limit)
    }

    /// Flushes and closes the nodes, makes the bitmaps durable with the nodes' fingerprints, and
    /// empties the log.
    ///
    /// The volume stays held: what comes later waits for ever instead of touching closed files.
    package func close() async throws(BlockError) { try await close(within: Self.closeLimit) }

    /// `close`, which gives up with nothing changed if writes in flight take longer than `limit`.
    func close(within limit: Duration) async throws(BlockError) {
        guard await locks.acquire(Self.allBytes, within: limit) != nil else {
            throw BlockError(
                .timedOut, "close", on: name,
                detail: "writes to it did not complete within \(limit); "
                    + "it is left as after a crash, which the next start makes good")
        }
        try await closeHeld()
    }

    /// `close`, refused with nothing changed while a backup holds a bitmap, or by `leave`, which is
    /// asked last, with no write in flight. Returns what failed in closing; the volume is as
    /// unusable after that as after a close that went well. With `storingBitmaps` the image lists
    /// the volume's bitmaps after that, for QEMU.
    package func closeUnlessBusy(
        storingBitmaps: Bool = false,
        _ leave: @Sendable () async throws(BlockError) -> Void = {}
    ) async throws(BlockError) -> BlockError? {
        let hold = await locks.acquire(Self.allBytes)
        guard frozenBitmaps().isEmpty else {
            locks.release(hold)
            throw BlockError(
                .busy, "close", on: name,
                detail: "it is being backed up: wait for the job or cancel it")
        }
        if let user = workingJobID ?? imageUse ?? chainUser.withLock({ $0 }) {
            locks.release(hold)
            throw BlockError(
                .busy, "close", on: name,
                detail: "\(user) is at work on it: wait for that or cancel it")
        }
        do throws(BlockError) { try await leave() } catch {
            locks.release(hold)
            throw error
        }
        do throws(BlockError) {
            if storingBitmaps { try await storeBitmaps() }
            try await closeHeld()
        } catch {
            return error
        }
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
            log.end()
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
            guard let hold = await locks.acquire(Self.allBytes, within: deadline) else { continue }
            defer { locks.release(hold) }
            return try await queue.run(body)
        }
        throw BlockError(
            .busy, "hold the volume's writes", on: name,
            detail: "writes in flight did not finish within \(deadline)")
    }

    /// Runs `body`, which has until the instant that it is told, with no write in flight; nil if
    /// those in flight did not finish within `limit`.
    package func tryHolding<T: Sendable>(
        for limit: Duration,
        _ body: (ContinuousClock.Instant) async throws(BlockError) -> T
    ) async throws(BlockError) -> T? {
        let end = ContinuousClock.now + limit
        guard let hold = await locks.acquire(Self.allBytes, within: limit) else { return nil }
        defer { locks.release(hold) }
        return try await body(end)
    }

    /// Commits what has changed in the bitmaps, with writes going on and in small commits, so that
    /// little is left to commit for whoever holds the volume next. The log stays as it is.
    package func persistAhead() async throws(BlockError) {
        if Mutant.freezeWithoutChunks.isActive || Mutant.disableWithoutChunks.isActive { return }
        // Once through the longest bitmap: what guests change meanwhile may be more than that.
        let chunkCount = bitmaps.withLock { table in
            (table.entries.map(\.bits) + table.working.map(\.unsettled)).map(\.chunkCount).max()
                ?? 0
        }
        for _ in 0...chunkCount / Self.chunksAhead {
            let hasMore = try await queue.run { [self] (catalog) throws(BlockError) in
                let taken = bitmaps.withLock { $0.takeDirtyChunks(limit: Self.chunksAhead) }
                guard !taken.isEmpty else { return false }
                do throws(CatalogError) {
                    try catalog.write { (transaction) throws(CatalogError) in
                        for one in taken {
                            try transaction.putChunks(one.chunks, ofBitmap: one.bitmapID)
                        }
                    }
                } catch {
                    for one in taken { one.giveBack() }
                    throw BlockError(catalog: error, "save the bitmaps of \(name)")
                }
                return taken.contains { $0.chunks.count == Self.chunksAhead }
            }
            guard hasMore else { return }
        }
    }

    private static let chunksAhead = 64

    /// On the catalog's thread with the volume held: commits every changed chunk of every bitmap,
    /// removes all regions from the log, and whatever `change` does, in one transaction.
    ///
    /// With no write in flight the chunks say all that the regions said, so the regions may go.
    func persistAll(
        in catalog: Catalog, _ change: (CatalogTransaction) throws(CatalogError) -> Void
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
            for taken in changed { taken.giveBack() }
            // A commit that failed may yet show after a crash: its regions are announced again.
            log.didClear()
            throw BlockError(catalog: error, "save the bitmaps of \(name)")
        }
        log.didClear()
    }
}

package import Bitmaps
package import BlockCore
package import Catalog
import Glibc
import Synchronization

// The start of a backup. Its two possible ends are in `FrozenBitmap`.
//
// A freeze holds new writes of all volumes concerned, drains those in flight, and then, at that
// one instant, does three things for each volume before it lets the writes go:
//
//   - the bitmap is frozen and a clean successor records in its place; the id of the point to
//     come is recorded with it: one catalog transaction for all volumes
//   - the point in time is installed, so that every later write keeps what it overwrites
//   - the activity log is emptied, since the chunks just committed say all that it said
//
// No I/O to a backup's target happens in here. Past the deadline, or if the commit fails, all is
// released unchanged.

/// What a freeze is to do for one volume.
package struct FreezeRequest: Sendable {
    package var volume: Volume
    /// The bitmap that shall continue the point; added if there is none by that name.
    package var bitmapName: String
    package var granularityBytes: UInt64
    package var point: PointReference
    /// The point that an increment by the bitmap depends on, and that the bitmap must continue at
    /// the instant of the freeze; nil for what does not depend on the bitmap.
    package var parent: PointReference?
    package var fleece: FleeceLimits

    package init(
        volume: Volume, bitmapName: String, granularityBytes: UInt64, point: PointReference,
        parent: PointReference?, fleece: FleeceLimits
    ) {
        self.volume = volume
        self.bitmapName = bitmapName
        self.granularityBytes = granularityBytes
        self.point = point
        self.parent = parent
        self.fleece = fleece
    }
}

/// A volume whose content at the freeze can be read, and whose bitmap awaits the outcome.
package struct FrozenVolume: Sendable {
    package let bitmap: FrozenBitmap
    package let point: PointInTime
    /// The granules that the point holds; nil for all.
    package let dirty: DirtyBitmap?
}

/// When a freeze was, and for how long it held writes.
package struct FreezeInstant: Sendable {
    /// Nanoseconds since 1970.
    package let nanoseconds: Int64
    package let heldFor: Duration
}

package enum Freeze {
    /// Freezes all `requests`, each of another volume, at one instant.
    package static func take(
        _ requests: [FreezeRequest], deadline: Duration = .seconds(10)
    ) async throws(BlockError) -> (volumes: [FrozenVolume], instant: FreezeInstant) {
        guard let queue = requests.first?.volume.queue else {
            throw BlockError(.invalid, "freeze", on: "no volume")
        }
        if Mutant.freezeOneByOne.isActive, requests.count > 1 {
            return try await takeOneByOne(requests, within: deadline)
        }
        for request in requests {
            try await request.volume.persistAhead()
            if Mutant.flushBeforeFreeze.isActive { try await request.volume.flush() }
        }
        let started = ContinuousClock.now
        let holds = try await hold(requests.map(\.volume), until: started + deadline)
        defer { for (volume, hold) in holds { volume.locks.release(hold) } }
        let nanoseconds = currentNanoseconds()
        let frozen = try await queue.run { (catalog) throws(BlockError) in
            guard
                ContinuousClock.now < started + deadline || Mutant.freezeWithoutDeadline.isActive
            else {
                throw BlockError(
                    .busy, "freeze", on: requests[0].volume.name,
                    detail: "the catalog was not free before the deadline; try again")
            }
            return try freezeAll(requests, in: catalog)
        }
        let instant = FreezeInstant(
            nanoseconds: nanoseconds, heldFor: ContinuousClock.now - started)
        return (frozen, instant)
    }

    /// What `Mutant.freezeOneByOne` has instead of one instant: that of the last is said to be all's.
    private static func takeOneByOne(
        _ requests: [FreezeRequest], within deadline: Duration
    ) async throws(BlockError) -> (volumes: [FrozenVolume], instant: FreezeInstant) {
        var frozen = try await take([requests[0]], deadline: deadline)
        for request in requests.dropFirst() {
            let next = try await take([request], deadline: deadline)
            frozen = (frozen.volumes + next.volumes, next.instant)
        }
        return frozen
    }

    /// Holds all volumes, in the order of their ids so that two groups cannot wait for each other.
    private static func hold(
        _ volumes: [Volume], until deadline: ContinuousClock.Instant
    ) async throws(BlockError) -> [(Volume, RangeLock.Hold)] {
        if Mutant.freezeWithoutDrain.isActive { return [] }
        var holds: [(Volume, RangeLock.Hold)] = []
        for volume in volumes.sorted(by: { $0.id < $1.id }) {
            let rest =
                Mutant.freezeWithoutDeadline.isActive
                ? .seconds(3600) : deadline - ContinuousClock.now
            guard let hold = await volume.locks.acquire(Volume.allBytes, within: rest) else {
                for (held, hold) in holds { held.locks.release(hold) }
                throw BlockError(
                    .busy, "freeze", on: volume.name,
                    detail: "writes in flight did not finish before the deadline; try again")
            }
            holds.append((volume, hold))
        }
        return holds
    }

    /// On the catalog's thread with every volume held.
    private static func freezeAll(
        _ requests: [FreezeRequest], in catalog: Catalog
    ) throws(BlockError) -> [FrozenVolume] {
        var tables: [BitmapTable] = []
        var successors: [DirtyBitmap] = []
        for request in requests {
            let table = request.volume.bitmaps.withLock { $0 }
            try request.checkBitmap(in: table)
            tables.append(table)
            successors.append(
                try DirtyBitmap(
                    lengthBytes: request.volume.lengthBytes,
                    granularityBytes: request.granularityBytes))
        }
        // From here on only the commit can fail, and then the chunks are given back.
        let taken =
            Mutant.freezeWithoutChunks.isActive ? [] : tables.flatMap { $0.takeDirtyChunks() }
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for chunks in taken {
                    try transaction.putChunks(chunks.chunks, ofBitmap: chunks.bitmapID)
                }
                for (index, request) in requests.enumerated() {
                    try tables[index].freeze(
                        request, successorBits: successors[index], in: transaction)
                    try transaction.clearRegions(ofVolume: request.volume.id)
                }
            }
        } catch {
            for chunks in taken { chunks.giveBack() }
            for request in requests { request.volume.log.didClear() }
            throw BlockError(catalog: error, "freeze the bitmaps")
        }
        return zip(requests, tables).map { request, table in request.install(table) }
    }

    private static func currentNanoseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}

extension FreezeRequest {
    /// Whether the bitmap, if there is one, may be frozen: it must still be what the plan saw. A
    /// bitmap that was cleared, promoted or made anew since then would leave a gap.
    fileprivate func checkBitmap(in table: BitmapTable) throws(BlockError) {
        guard table[bitmapName] != nil else {
            guard parent == nil else { throw Volume.noBitmap(bitmapName, of: volume.name) }
            return
        }
        // What does not depend on the bitmap may start one afresh that is disabled, or cannot be
        // trusted.
        let entry = try table.idle(
            bitmapName, of: volume.name, allowsInconsistent: parent == nil)
        guard entry.record.isRecording || parent == nil else {
            throw BlockError(
                .invalid, "back up with bitmap '\(bitmapName)'", on: volume.name,
                detail: "it is disabled: enable it first")
        }
        guard parent == nil || entry.record.continues == parent,
            entry.record.granularityBytes == granularityBytes
        else {
            throw BlockError(
                .busy, "back up with bitmap '\(bitmapName)'", on: volume.name,
                detail: "it was changed while the backup was being planned: try again")
        }
    }

    /// After the commit, with the volume held: memory follows.
    fileprivate func install(_ table: BitmapTable) -> FrozenVolume {
        let dirty = parent == nil ? nil : table[bitmapName]?.bits
        let owed = dirty.map { Array($0.dirtyRanges()) } ?? [volume.wholeRange]
        let point = PointInTime(
            source: volume, lengthBytes: volume.lengthBytes,
            granuleBytes: PointInTime.granuleBytes(forGranularity: granularityBytes),
            limits: fleece, owed: owed)
        volume.bitmaps.withLock { $0 = table }
        volume.duties.recording = table.recording
        volume.duties.points.append(point)
        volume.log.didClear()
        let bitmap = FrozenBitmap(volume: volume, name: bitmapName, pending: self.point)
        return FrozenVolume(bitmap: bitmap, point: point, dirty: dirty)
    }
}

extension BitmapTable {
    /// Adds the bitmap if it is new, and puts a successor over it.
    fileprivate mutating func freeze(
        _ request: FreezeRequest, successorBits: DirtyBitmap, in transaction: CatalogTransaction
    ) throws(CatalogError) {
        var entry: BitmapEntry
        if let existing = self[request.bitmapName] {
            entry = existing
        } else {
            let record = try transaction.insertBitmap(
                BitmapRecord(
                    volumeID: request.volume.id, name: request.bitmapName,
                    granularityBytes: request.granularityBytes, isRecording: true))
            // The bits of a bitmap that is new at this instant are nobody's past: all clean.
            entry = BitmapEntry(record: record, bits: successorBits.copy())
        }
        let successor = try transaction.freezeBitmap(
            entry.record.id, for: request.point, chunks: [], restarts: request.parent == nil)
        if Mutant.clearAtFreeze.isActive {
            try transaction.deleteChunks(from: 0, ofBitmap: entry.record.id)
        }
        entry.record.pending = request.point
        entry.successor = BitmapEntry.Successor(record: successor, bits: successorBits)
        self[request.bitmapName] = entry
    }
}

package import Bitmaps
package import BlockCore
package import Catalog
import Synchronization

// The start of a backup. Its two possible ends are in `FrozenBitmap`.
//
// A freeze holds new writes of all volumes concerned, drains those in flight, and then, at that
// one instant (`QuietTransaction`), does three things for each volume before it lets the writes go:
//
//   - the bitmap is frozen and a clean successor records in its place; the id of the point to
//     come is recorded with it: one catalog transaction for all volumes
//   - the point in time is installed, so that every later write keeps what it overwrites
//   - the activity log is emptied, since the chunks just committed say all that it said; if many
//     regions were in use, they are announced again behind the freeze, in one commit
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
        guard !requests.isEmpty else {
            throw BlockError(.invalid, "freeze", on: "no volume")
        }
        if Mutant.freezeOneByOne.isActive, requests.count > 1 {
            return try await takeOneByOne(requests, within: deadline)
        }
        let outcome = try await QuietTransaction.run(
            requests.map { .freeze($0) }, deadline: deadline)
        return (outcome.frozen, outcome.instant)
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
}

extension FreezeRequest {
    /// Whether the bitmap, if there is one, may be frozen: it must still be what the plan saw. A
    /// bitmap that was cleared, promoted or made anew since then would leave a gap.
    func checkBitmap(in table: BitmapTable) throws(BlockError) {
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

    /// After the commit, with the volume held, when memory has `table` already: the point in time.
    func install(_ table: BitmapTable) -> FrozenVolume {
        let dirty = parent == nil ? nil : table[bitmapName]?.bits
        let owed = dirty.map { Array($0.dirtyRanges()) } ?? [volume.wholeRange]
        let point = PointInTime(
            source: volume, lengthBytes: volume.lengthBytes,
            granuleBytes: PointInTime.granuleBytes(forGranularity: granularityBytes),
            limits: fleece, owed: owed)
        volume.duties.points.append(point)
        let bitmap = FrozenBitmap(volume: volume, name: bitmapName, pending: self.point)
        return FrozenVolume(bitmap: bitmap, point: point, dirty: dirty)
    }
}

extension BitmapTable {
    /// Adds the bitmap if it is new, and puts a successor over it.
    mutating func freeze(
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

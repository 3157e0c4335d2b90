package import Bitmaps
package import BlockCore
package import Catalog
import Synchronization

// The two ends of a backup, as far as its bitmap is concerned.
//
// *Promotion*: the repository says that the point is durable, and the source has been flushed
// since the freeze. The frozen bits go; the successor takes the name and continues the point.
// Without the flush a power loss would take the image back to data that the point does not hold,
// with a clean bit.
// A differential ends in another way: it changes nothing about what its bitmap continues.
//
// *Merging back*: failure, cancellation, or a crash whose point never became whole. The bitmap takes
// its successor's bits in and records again: a failed backup loses nothing.

/// A bitmap in whose place a successor records until the outcome of a backup is known.
package struct FrozenBitmap: Sendable {
    package let volume: Volume
    package let name: String
    /// The point that the backup is to become.
    package let pending: PointReference

    /// The point is durable and the source flushed: the successor takes the bitmap's place.
    package func promote(_ record: PointRecord, releasing point: PointInTime? = nil)
        async throws(BlockError)
    {
        try await end("promote bitmap '\(name)'", point) {
            (entry, successor, transaction) throws(CatalogError) in
            let promoted = try transaction.promoteSuccessor(of: entry.record.id, point: record)
            return BitmapEntry(record: promoted, bits: successor.bits)
        }
    }

    /// The bitmap takes its successor's bits in and records again: the point will never be, or it
    /// is a differential, `record`, after which the bitmap continues what it continued before.
    package func mergeBack(
        adding record: PointRecord? = nil, releasing point: PointInTime? = nil
    ) async throws(BlockError) {
        point?.giveUp(BlockError(.cancelled, "keep the point", on: volume.name))
        try await end("merge bitmap '\(name)' back", point) {
            (entry, successor, transaction) throws(CatalogError) in
            if Mutant.dropFrozenOnFailure.isActive { entry.bits.clearAll() }
            if !Mutant.dropSuccessorOnFailure.isActive {
                entry.bits.mergeOfSameVolume(successor.bits)
            }
            let merged = try transaction.mergeSuccessorBack(
                into: entry.record.id, chunks: entry.bits.takeDirtyChunks())
            if let record { try transaction.upsertPoint(record) }
            return BitmapEntry(record: merged, bits: entry.bits)
        }
    }

    /// A differential, `record`, is durable and the source flushed, and the bitmap could not be
    /// trusted: its successor takes its place and continues the differential's parent, `changed`
    /// being what was found to differ from that at the freeze.
    package func restart(
        _ record: PointRecord, changed: DirtyBitmap, releasing point: PointInTime? = nil
    ) async throws(BlockError) {
        try await end("restart bitmap '\(name)'", point) {
            (entry, successor, transaction) throws(CatalogError) in
            let promoted = try transaction.promoteSuccessor(
                of: entry.record.id, point: record, continuesParent: true)
            successor.bits.mergeOfSameVolume(changed)
            try transaction.putChunks(
                successor.bits.takeDirtyChunks(), ofBitmap: promoted.id)
            return BitmapEntry(record: promoted, bits: successor.bits)
        }
    }

    /// Whether the outcome of its backup is still open.
    package var isFrozen: Bool {
        volume.frozenBitmaps().contains { $0.name == name && $0.pending == pending }
    }

    /// At a quiet instant, so that the point leaves the write path as the bitmap changes.
    private func end(
        _ operation: String, _ point: PointInTime?,
        _ body:
            @escaping @Sendable (BitmapEntry, BitmapEntry.Successor, CatalogTransaction)
            throws(CatalogError) -> BitmapEntry
    ) async throws(BlockError) {
        try await volume.atQuietInstant(tries: 30, deadline: .seconds(2)) {
            [volume, name] (catalog) throws(BlockError) in
            volume.duties.points.removeAll { $0 === point }
            var table = volume.bitmaps.withLock { $0 }
            guard let entry = table[name], let successor = entry.successor,
                entry.record.pending == pending
            else {
                throw Volume.noBitmap(name, of: volume.name)
            }
            do throws(CatalogError) {
                table[name] = try catalog.write { (transaction) throws(CatalogError) in
                    try body(entry, successor, transaction)
                }
            } catch {
                for bits in [entry.bits, successor.bits] {
                    bits.restoreUnpersisted(Array(0..<bits.chunkCount))
                }
                throw BlockError(catalog: error, operation)
            }
            let result = table
            volume.bitmaps.withLock { $0 = result }
            volume.duties.recording = result.recording
        }
    }
}

extension Volume {
    /// The bitmaps that a backup left frozen: after a crash, those whose outcome is to be found.
    package func frozenBitmaps() -> [FrozenBitmap] {
        bitmaps.withLock { table in
            table.entries.compactMap { entry in
                guard entry.successor != nil, let pending = entry.record.pending else { return nil }
                return FrozenBitmap(volume: self, name: entry.name, pending: pending)
            }
        }
    }
}

package import Bitmaps
import BlockCore

// A backup in two phases, so that a failed or killed one loses nothing.
//
//     freezeBitmap          at the instant of the freeze: the bitmap keeps what the backup must
//                           read, its successor records from here on, and the id of the point to
//                           come is written down
//     promoteSuccessor      the repository says that the point is durable, and the source was
//                           flushed since the freeze: the successor takes the name
//     mergeSuccessorBack    the backup failed or was cancelled: the bitmap takes the successor's
//                           bits in
//
// After a crash, `frozenBitmaps` lists what is not settled. Whoever recovers asks each one's
// repository for the recorded point: whole, it is promoted; absent, it is merged back; while the
// repository does not answer, both bitmaps are kept.

extension CatalogTransaction {
    /// Freezes a bitmap for the backup that will make `point`, and gives it a successor that
    /// records if it did. Returns the successor.
    ///
    /// `chunks` are those of the frozen bitmap that changed, taken after the drain. To clear the
    /// activity log with it, put the chunks of all other recording bitmaps of the volume in the
    /// same transaction and call `clearRegions`.
    ///
    /// An inconsistent bitmap may be frozen too, and with `restarts` a disabled one: a backup that
    /// does not depend on the bitmap starts it afresh. Throws `busy` if the bitmap is frozen,
    /// `other` if it is a successor.
    package func freezeBitmap(
        _ id: Int64, for point: PointReference, chunks: [BitmapChunk], restarts: Bool = false
    ) throws(CatalogError) -> BitmapRecord {
        var bitmap = try bitmap(id)
        let operation = "freeze the bitmap \(bitmap.name ?? "\(id)")"
        guard !bitmap.isFrozen else {
            throw CatalogError(
                .busy, operation, on: path,
                detail: "the backup \(bitmap.pending?.pointID ?? "") is using it; wait for it")
        }
        guard bitmap.successorOf == nil else {
            throw CatalogError(.other, operation, on: path, detail: "it is itself a successor")
        }
        bitmap.pending = point
        try updateBitmap(bitmap)
        try putChunks(chunks, ofBitmap: id)
        return try insertBitmap(
            BitmapRecord(
                volumeID: bitmap.volumeID, name: nil, granularityBytes: bitmap.granularityBytes,
                isRecording: bitmap.isRecording || restarts, successorOf: id))
    }

    /// Ends a backup that succeeded: removes the frozen bitmap with its bits, gives its name to
    /// the successor, which continues `point` from now on, and adds the point. Returns the
    /// bitmap that was the successor, under its own number.
    ///
    /// With `continuesParent` it continues the point's parent instead: what changed between the two
    /// is the caller's to put into it. Throws `other` if the bitmap is not frozen for that very
    /// point.
    package func promoteSuccessor(
        of id: Int64, point: PointRecord, continuesParent: Bool = false
    ) throws(CatalogError) -> BitmapRecord {
        let frozen = try bitmap(id)
        var successor = try successorToSettle(of: frozen, "promote the successor")
        guard frozen.pending == point.reference else {
            throw CatalogError(
                .other, "promote the successor of bitmap \(id)", on: path,
                detail: "it waits for \(frozen.pending?.pointID ?? ""), not \(point.id)")
        }
        try delete(frozen)
        successor.name = frozen.name
        successor.successorOf = nil
        successor.continues = continuesParent ? point.parentReference : point.reference
        try updateBitmap(successor)
        try upsertPoint(point)
        return successor
    }

    /// Ends a backup that failed: the bitmap takes in the bits that are stored of its successor,
    /// is frozen no more and continues what it continued before. The successor is removed.
    ///
    /// `chunks` are those of the bitmap in memory that changed when the successor in memory was
    /// merged into it; they replace what is stored. Recovery after a crash has none to give.
    package func mergeSuccessorBack(
        into id: Int64, chunks: [BitmapChunk] = []
    ) throws(CatalogError) -> BitmapRecord {
        var bitmap = try bitmap(id)
        let successor = try successorToSettle(of: bitmap, "merge the successor back")
        if !Mutant.dropSuccessorOnFailure.isActive {
            try orChunks(ofBitmap: successor.id, intoBitmap: id)
        }
        try putChunks(chunks, ofBitmap: id)
        try delete(successor)
        bitmap.pending = nil
        bitmap.inconsistency = bitmap.inconsistency ?? successor.inconsistency
        try updateBitmap(bitmap)
        return bitmap
    }

    private func successorToSettle(
        of frozen: BitmapRecord, _ operation: String
    ) throws(CatalogError) -> BitmapRecord {
        guard frozen.isFrozen, let successor = try successor(of: frozen.id) else {
            throw CatalogError(
                .other, "\(operation) of bitmap \(frozen.id)", on: path,
                detail: "no backup is using it")
        }
        return successor
    }

    /// Adds the stored bits of one bitmap to those of another of the same granularity.
    private func orChunks(
        ofBitmap source: Int64, intoBitmap target: Int64
    ) throws(CatalogError) {
        var merged: [Int: [UInt8]] = [:]
        try forEachChunk(ofBitmap: target) { merged[$0.index] = $0.bytes }
        var changed: [BitmapChunk] = []
        try forEachChunk(ofBitmap: source) { (chunk) throws(CatalogError) in
            guard let bytes = merged[chunk.index] else { return changed.append(chunk) }
            guard bytes.count == chunk.bytes.count else {
                throw .corrupt(
                    "merge bitmap \(source) into \(target)", on: path,
                    detail: "chunk \(chunk.index) has \(chunk.bytes.count) and \(bytes.count) bytes"
                )
            }
            changed.append(
                BitmapChunk(index: chunk.index, bytes: zip(bytes, chunk.bytes).map { $0 | $1 }))
        }
        try putChunks(changed, ofBitmap: target)
    }
}

package import Bitmaps
import Foundation
import GRDB

extension CatalogTransaction {
    /// Adds a bitmap without bits. Returns it with its number. Throws `duplicate` if the volume
    /// has one of that name, or the frozen bitmap a successor.
    package func insertBitmap(_ bitmap: BitmapRecord) throws(CatalogError) -> BitmapRecord {
        var bitmap = bitmap
        try execute(
            "INSERT INTO bitmap (volumeID, name, granularityBytes, isRecording, inconsistency,"
                + " successorOf, pendingRepositoryID, pendingPointID, continuesRepositoryID,"
                + " continuesPointID) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            try arguments(of: bitmap), "insert the bitmap \(bitmap.name ?? "(successor)")")
        bitmap.id = database.lastInsertedRowID
        return bitmap
    }

    /// Replaces all that is known of a bitmap but its bits.
    package func updateBitmap(_ bitmap: BitmapRecord) throws(CatalogError) {
        try executeOnOne(
            "UPDATE bitmap SET volumeID = ?, name = ?, granularityBytes = ?, isRecording = ?,"
                + " inconsistency = ?, successorOf = ?, pendingRepositoryID = ?,"
                + " pendingPointID = ?, continuesRepositoryID = ?, continuesPointID = ?"
                + " WHERE id = ?", try arguments(of: bitmap) + [bitmap.id],
            "change the bitmap \(bitmap.id)")
    }

    /// Removes a bitmap and its bits. Throws `busy` if it is frozen or a successor.
    package func deleteBitmap(_ id: Int64) throws(CatalogError) {
        let bitmap = try bitmap(id)
        guard !bitmap.isFrozen, bitmap.successorOf == nil else {
            throw CatalogError(
                .busy, "delete the bitmap \(id)", on: path,
                detail: "a backup is using it; wait for it, or cancel it")
        }
        try delete(bitmap)
    }

    /// Removes a bitmap and its bits, frozen or not.
    func delete(_ bitmap: BitmapRecord) throws(CatalogError) {
        try executeOnOne(
            "DELETE FROM bitmap WHERE id = ?", [bitmap.id], "delete the bitmap \(bitmap.id)")
    }

    /// Says of every bitmap of a volume, or of all volumes, that its bits cannot be trusted.
    /// Those that have a reason keep it.
    package func distrustBitmaps(
        ofVolume volumeID: Int64? = nil, reason: String
    ) throws(CatalogError) {
        try execute(
            "UPDATE bitmap SET inconsistency = ?"
                + " WHERE inconsistency IS NULL AND volumeID = ifnull(?, volumeID)",
            [reason, volumeID], "distrust bitmaps")
    }

    /// Stores chunks of a bitmap in place of what is stored of them; one without bytes is
    /// removed.
    package func putChunks(
        _ chunks: [BitmapChunk], ofBitmap id: Int64
    ) throws(CatalogError) {
        for chunk in chunks {
            if chunk.bytes.isEmpty {
                try execute(
                    "DELETE FROM bitmap_chunk WHERE bitmapID = ? AND chunkIndex = ?",
                    [id, chunk.index], "store bits of bitmap \(id)")
            } else {
                try execute(
                    "INSERT INTO bitmap_chunk (bitmapID, chunkIndex, bits) VALUES (?, ?, ?)"
                        + " ON CONFLICT DO UPDATE SET bits = excluded.bits",
                    [id, chunk.index, Data(chunk.bytes)], "store bits of bitmap \(id)")
            }
        }
    }

    /// Removes the chunks of a bitmap from number `index` on: those that a shrunk one has no more.
    package func deleteChunks(from index: Int, ofBitmap id: Int64) throws(CatalogError) {
        try execute(
            "DELETE FROM bitmap_chunk WHERE bitmapID = ? AND chunkIndex >= ?", [id, index],
            "remove bits of bitmap \(id)")
    }

    private func arguments(of bitmap: BitmapRecord) throws(CatalogError) -> StatementArguments {
        [
            bitmap.volumeID, bitmap.name, try integer(bitmap.granularityBytes),
            bitmap.isRecording, bitmap.inconsistency, bitmap.successorOf,
            bitmap.pending?.repositoryID, bitmap.pending?.pointID,
            bitmap.continues?.repositoryID, bitmap.continues?.pointID,
        ]
    }
}

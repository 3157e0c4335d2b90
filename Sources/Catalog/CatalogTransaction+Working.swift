import Foundation
import GRDB

// A job that copies what guests write needs a bitmap that is durable as the named ones are, and
// that no user sees. It is a row like theirs, under a name that nobody else gives, and a row of its
// own that says whose it is.

/// A bitmap that a job works off.
package struct WorkingBitmapRecord: Hashable, Sendable {
    /// Its row among the bitmaps.
    package var bitmap: BitmapRecord
    /// The job whose it is.
    package var jobID: String
}

extension CatalogSnapshot {
    /// The working bitmaps of a volume, in the order of their making.
    package func workingBitmaps(
        ofVolume volumeID: Int64
    ) throws(CatalogError) -> [WorkingBitmapRecord] {
        let owners = try perform("read the working bitmaps") { database in
            try Row.fetchAll(database, sql: "SELECT bitmapID, jobID FROM working_bitmap")
                .map { (bitmapID: $0["bitmapID"] as Int64, jobID: $0["jobID"] as String) }
        }
        return try bitmaps(ofVolume: volumeID).compactMap { bitmap in
            owners.first { $0.bitmapID == bitmap.id }
                .map { WorkingBitmapRecord(bitmap: bitmap, jobID: $0.jobID) }
        }
    }
}

extension CatalogTransaction {
    /// Adds a working bitmap without bits, which records.
    package func insertWorkingBitmap(
        ofVolume volumeID: Int64, granularityBytes: UInt64, jobID: String
    ) throws(CatalogError) -> WorkingBitmapRecord {
        let bitmap = try insertBitmap(
            BitmapRecord(
                volumeID: volumeID, name: "working bitmap \(UUID().uuidString)",
                granularityBytes: granularityBytes))
        try execute(
            "INSERT INTO working_bitmap (bitmapID, jobID) VALUES (?, ?)", [bitmap.id, jobID],
            "insert the working bitmap of \(jobID)")
        return WorkingBitmapRecord(bitmap: bitmap, jobID: jobID)
    }
}

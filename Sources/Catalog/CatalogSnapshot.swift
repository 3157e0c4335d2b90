package import Bitmaps
import BlockCore
package import Foundation
import GRDB

/// A consistent view of the catalog, for the duration of the call that it was handed to.
package class CatalogSnapshot {
    let database: Database
    let path: String

    init(_ database: Database, path: String) {
        self.database = database
        self.path = path
    }

    // MARK: Volumes

    /// All volumes, by name.
    package func volumes() throws(CatalogError) -> [VolumeRecord] {
        try fetchAll("SELECT * FROM volume ORDER BY name")
    }

    /// The volume of that name; throws `notFound` if there is none.
    package func volume(named name: String) throws(CatalogError) -> VolumeRecord {
        try fetchOne("SELECT * FROM volume WHERE name = ?", [name], "find the volume \(name)")
    }

    /// The nodes of a volume from the top down.
    package func nodes(ofVolume volumeID: Int64) throws(CatalogError) -> [NodeRecord] {
        try fetchAll("SELECT * FROM node WHERE volumeID = ? ORDER BY position", [volumeID])
    }

    /// The numbers of the regions in a volume's activity log, ascending.
    package func announcedRegions(ofVolume volumeID: Int64) throws(CatalogError) -> [UInt64] {
        try perform("read the activity log") { database in
            try UInt64.fetchAll(
                database,
                sql: "SELECT region FROM activity_region WHERE volumeID = ? ORDER BY region",
                arguments: [volumeID])
        }
    }

    // MARK: Bitmaps

    /// The bitmaps of a volume, successors among them, in the order of their making.
    package func bitmaps(ofVolume volumeID: Int64) throws(CatalogError) -> [BitmapRecord] {
        try fetchAll("SELECT * FROM bitmap WHERE volumeID = ? ORDER BY id", [volumeID])
    }

    /// The bitmap with that number; throws `notFound` if there is none.
    package func bitmap(_ id: Int64) throws(CatalogError) -> BitmapRecord {
        try fetchOne("SELECT * FROM bitmap WHERE id = ?", [id], "find the bitmap \(id)")
    }

    /// The successor of a bitmap, if it has one.
    package func successor(of id: Int64) throws(CatalogError) -> BitmapRecord? {
        let successors: [BitmapRecord] = try fetchAll(
            "SELECT * FROM bitmap WHERE successorOf = ?", [id])
        return successors.first
    }

    /// The frozen bitmaps of all volumes: each waits for its backup to be settled.
    package func frozenBitmaps() throws(CatalogError) -> [BitmapRecord] {
        try fetchAll("SELECT * FROM bitmap WHERE pendingPointID IS NOT NULL ORDER BY id")
    }

    /// Calls `body` with each stored chunk of a bitmap, one at a time.
    package func forEachChunk(
        ofBitmap id: Int64, _ body: (BitmapChunk) throws(CatalogError) -> Void
    ) throws(CatalogError) {
        try perform("read the bits of bitmap \(id)") { database in
            let rows = try Row.fetchCursor(
                database,
                sql: "SELECT chunkIndex, bits FROM bitmap_chunk WHERE bitmapID = ?"
                    + " ORDER BY chunkIndex", arguments: [id])
            while let row = try rows.next() {
                let bits: Data = row["bits"]
                try body(BitmapChunk(index: row["chunkIndex"], bytes: [UInt8](bits)))
            }
        }
    }

    /// Loads the stored bits of a bitmap into `bitmap`, where they count as persisted. Throws
    /// `corrupt` if they do not fit it.
    package func loadChunks(
        ofBitmap id: Int64, into bitmap: DirtyBitmap
    ) throws(CatalogError) {
        try forEachChunk(ofBitmap: id) { (chunk) throws(CatalogError) in
            do throws(BlockError) { try bitmap.load(chunk) } catch {
                throw .corrupt("load bitmap \(id)", on: path, detail: error.description)
            }
        }
    }

    // MARK: Repositories and points

    /// All repositories, by name.
    package func repositories() throws(CatalogError) -> [RepositoryRecord] {
        try fetchAll("SELECT * FROM repository ORDER BY name")
    }

    /// The repository of that name; throws `notFound` if there is none.
    package func repository(named name: String) throws(CatalogError) -> RepositoryRecord {
        try fetchOne(
            "SELECT * FROM repository WHERE name = ?", [name], "find the repository \(name)")
    }

    /// The repository with that number; throws `notFound` if there is none.
    package func repository(_ id: Int64) throws(CatalogError) -> RepositoryRecord {
        try fetchOne("SELECT * FROM repository WHERE id = ?", [id], "find the repository \(id)")
    }

    /// The known points, oldest first: all, or those of a volume, of a repository, or both.
    package func points(
        ofVolume volumeUUID: UUID? = nil, inRepository repositoryID: Int64? = nil
    ) throws(CatalogError) -> [PointRecord] {
        try fetchAll(
            "SELECT * FROM point WHERE volumeUUID = ifnull(?, volumeUUID)"
                + " AND repositoryID = ifnull(?, repositoryID) ORDER BY id, repositoryID",
            [volumeUUID?.uuidString, repositoryID])
    }

    // MARK: Jobs

    /// The runs of jobs, newest first, at most `limit`.
    package func jobs(limit: Int = 1000) throws(CatalogError) -> [JobRecord] {
        try fetchAll("SELECT * FROM job ORDER BY startedAt DESC, id LIMIT ?", [limit])
    }

    /// The runs of jobs that have not ended, oldest first.
    package func unfinishedJobs() throws(CatalogError) -> [JobRecord] {
        try fetchAll("SELECT * FROM job WHERE endedAt IS NULL ORDER BY startedAt, id")
    }

    // MARK: The agent's own

    /// Whose catalog it is.
    package func identity() throws(CatalogError) -> CatalogIdentity {
        try fetchOne("SELECT * FROM identity", [], "find the catalog's identity")
    }

    /// The files that a crash may have left.
    package func leftovers() throws(CatalogError) -> [LeftoverRecord] {
        try fetchAll("SELECT * FROM leftover ORDER BY path")
    }

    // MARK: For the other files of this class

    /// Runs `body`, turning what it throws into a `CatalogError` about `operation`.
    func perform<T>(
        _ operation: @autoclosure () -> String, _ body: (Database) throws -> T
    ) throws(CatalogError) -> T {
        do { return try body(database) } catch let error as CatalogError { throw error } catch {
            throw CatalogError(sqlite: error, operation(), on: path)
        }
    }

    func fetchAll<Record: CatalogRow>(
        _ sql: String, _ arguments: StatementArguments = []
    ) throws(CatalogError) -> [Record] {
        try perform("read") { database in
            try Row.fetchAll(database.cachedStatement(sql: sql), arguments: arguments)
                .map(Record.init(row:))
        }
    }

    private func fetchOne<Record: CatalogRow>(
        _ sql: String, _ arguments: StatementArguments, _ operation: String
    ) throws(CatalogError) -> Record {
        let records: [Record] = try fetchAll(sql, arguments)
        guard let record = records.first else {
            throw CatalogError(.notFound, operation, on: path, detail: "there is none")
        }
        return record
    }
}

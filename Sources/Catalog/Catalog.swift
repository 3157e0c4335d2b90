import BlockCore
import GRDB
import Synchronization

// What the agent must not forget: volumes, bitmaps, the activity log, repositories, points, jobs.
//
// The rule of the whole project is kept here: at every instant, also after a crash and a power
// loss, the bitmap in the catalog together with the regions in the activity log covers every byte
// that differs from the last committed point. Therefore every commit is durable when it returns
// (`synchronous` is FULL), and what must change together changes in one `write`. The one exception
// is a commit for which a caller asks for less (see `Durability`).
//
// A commit that throws was rolled back, but after an I/O error the medium may show it yet after a
// crash. So a region whose removal failed counts as not announced: it is announced again before
// the next write into it. Everything else may be done again as it stands.

/// The SQLite database of one state directory.
///
/// Every method may block for a commit or for another thread's write; the caller chooses the
/// thread. None may be called from inside the body of another.
package final class Catalog: Sendable {
    /// The name of the file in the state directory.
    package static let fileName = "catalog.sqlite"

    package let path: String
    private let pool: DatabasePool
    private let failCommit: (@Sendable () -> CatalogError?)?
    /// What `synchronous` is on the connection that writes, at which only that one's queue looks.
    private let synchronous = Mutex(Durability.power)

    /// Opens the catalog of `directory`, creating it if there is none, and checks all of it.
    ///
    /// The caller holds the `StateDirectoryLock`. A damaged catalog is refused with `corrupt` and
    /// left as it is. `failCommit` is for tests: called at the end of every transaction, it fails
    /// the commit with the error that it returns.
    package init(
        directory: String, failCommit: (@Sendable () -> CatalogError?)? = nil
    ) throws(CatalogError) {
        path = "\(directory)/\(Self.fileName)"
        self.failCommit = failCommit
        try CatalogFile.createIfMissing(in: directory)
        pool = try CatalogFile.open(path)
    }

    /// Renames the catalog of `directory` so that opening makes a new one: for rebuilding a
    /// damaged one. Returns where it now is, or nil if there was none.
    package static func setAside(in directory: String) throws(CatalogError) -> String? {
        try CatalogFile.setAside(in: directory)
    }

    /// Checks the catalog of `directory` as opening does, without changing anything. Throws if it
    /// is missing, damaged, or of a newer version.
    package static func check(in directory: String) throws(CatalogError) {
        let path = "\(directory)/\(fileName)"
        guard HostDirectory.exists(path) else {
            throw CatalogError(
                .notFound, "check", on: path, detail: "there is none; an agent makes a new one")
        }
        try CatalogFile.check(path)
    }

    /// What SQLite finds damaged in the open catalog; empty if it is sound. Reads all of it.
    package func damage() -> [String] {
        do {
            let lines = try pool.read {
                try String.fetchAll($0, sql: "PRAGMA integrity_check(20)")
            }
            return lines == ["ok"] ? [] : lines
        } catch {
            return ["\(error)"]
        }
    }

    /// Closes the file. No method may be running or follow.
    package func close() throws(CatalogError) {
        do { try pool.close() } catch { throw CatalogError(sqlite: error, "close", on: path) }
    }

    /// Calls `body` with a consistent view of everything committed so far.
    package func read<T>(
        _ body: (CatalogSnapshot) throws(CatalogError) -> T
    ) throws(CatalogError) -> T {
        do {
            return try pool.read { try body(CatalogSnapshot($0, path: path)) }
        } catch let error as CatalogError {
            throw error
        } catch {
            throw CatalogError(sqlite: error, "read", on: path)
        }
    }

    /// Calls `body` with a transaction and commits what it did: as durably as `durability` says
    /// when this returns, not at all when this or the body throws.
    package func write<T>(
        durability: Durability = .power,
        _ body: (CatalogTransaction) throws(CatalogError) -> T
    ) throws(CatalogError) -> T {
        do {
            return try pool.writeWithoutTransaction { database in
                try setSynchronous(durability, on: database)
                var result: T?
                try database.inTransaction {
                    result = try body(CatalogTransaction(database, path: path))
                    if let error = failCommit?() { throw error }
                    return .commit
                }
                return result!
            }
        } catch let error as CatalogError {
            throw error
        } catch {
            throw CatalogError(sqlite: error, "commit", on: path)
        }
    }

    /// SQLite keeps the setting of a connection, so it changes only between commits that differ.
    private func setSynchronous(_ durability: Durability, on database: Database) throws {
        try synchronous.withLock { present in
            guard present != durability else { return }
            try database.execute(sql: "PRAGMA synchronous = \(durability.synchronous)")
            guard try WriterSettings(database: database).synchronous == durability.synchronous
            else {
                throw CatalogError(
                    .other, "commit", on: path, detail: "SQLite does not change `synchronous`")
            }
            present = durability
        }
    }

    /// Adds regions to the activity log of a volume. When this returns, writes into them may
    /// begin; when it throws, they may not.
    package func announce(_ regions: [UInt64], ofVolume volumeID: Int64) throws(CatalogError) {
        try write { (transaction) throws(CatalogError) in
            try transaction.announce(regions, ofVolume: volumeID)
        }
    }

    /// The settings that durability and consistency rest on, as SQLite reports them for the
    /// connection that writes.
    package func writerSettings() throws(CatalogError) -> WriterSettings {
        do {
            return try pool.writeWithoutTransaction(WriterSettings.init(database:))
        } catch {
            throw CatalogError(sqlite: error, "read the settings", on: path)
        }
    }

    /// What `PRAGMA` says of the writing connection.
    package struct WriterSettings: Equatable, Sendable {
        /// 2 is FULL: a commit is on the medium when it returns.
        package var synchronous: Int
        /// "wal".
        package var journalMode: String
        package var enforcesForeignKeys: Bool

        /// Whether they are what the catalog's promises need.
        package var isSafe: Bool {
            synchronous == 2 && journalMode == "wal" && enforcesForeignKeys
        }

        init(database: Database) throws {
            synchronous = try Int.fetchOne(database, sql: "PRAGMA synchronous") ?? -1
            journalMode = try String.fetchOne(database, sql: "PRAGMA journal_mode") ?? ""
            enforcesForeignKeys = try Bool.fetchOne(database, sql: "PRAGMA foreign_keys") ?? false
        }
    }
}

extension Durability {
    /// SQLite's number for it: FULL waits for the medium at every commit, NORMAL does not.
    fileprivate var synchronous: Int {
        switch self {
        case .power: 2
        case .process: 1
        }
    }
}

import BlockCore
import GRDB

// How the catalog's file comes to be and how it is opened.
//
// A new catalog is made under another name and renamed when it is complete, so an empty or
// half-made `catalog.sqlite` is damage, never a beginning. A journal without its file is damage
// too: SQLite would delete it, or play it into a new file that it does not belong to.

/// The file of a catalog and SQLite's journal beside it.
enum CatalogFile {
    private static let suffixes = ["", "-wal", "-shm"]
    private static let busySeconds = 5.0
    /// SQLite begins anew after 1000 pages of 4 KiB; each has a header, and the last commit may
    /// go a little beyond.
    private static let journalBytes: UInt64 = 1100 * (4096 + 24)

    /// Makes a catalog without any rows unless there is a file.
    static func createIfMissing(in directory: String) throws(CatalogError) {
        let path = "\(directory)/\(Catalog.fileName)"
        guard !HostDirectory.exists(path) else { return }
        guard !HostDirectory.exists(path + "-wal") else {
            throw .corrupt("open", on: path, detail: "the file is missing, its journal is there")
        }
        let fresh = path + ".new"
        try onFiles("remove what an interrupted creation left") { () throws(BlockError) in
            for suffix in suffixes { try HostDirectory.removeFile(fresh + suffix) }
        }
        try onDatabase("create", path) {
            let pool = try makePool(fresh)
            try CatalogMigrations.migrator.migrate(pool)
            try pool.close()
        }
        try onFiles("create the catalog") { () throws(BlockError) in
            try HostDirectory.rename(fresh, to: path)
            try HostDirectory.flush(directory)
        }
    }

    /// Opens the catalog at `path`, checks it and brings its schema up to date.
    static func open(_ path: String) throws(CatalogError) -> DatabasePool {
        // A pool writes to the file when it opens it, so the check comes first and only reads.
        try check(path)
        let pool = try onDatabase("open", path) { try makePool(path) }
        do throws(CatalogError) {
            try onDatabase("bring the schema up to date", path) {
                try CatalogMigrations.migrator.migrate(pool)
            }
            growJournal(path + "-wal")
            return pool
        } catch {
            try? pool.close()
            throw error
        }
    }

    /// Checks all of the file by a connection that only reads.
    static func check(_ path: String) throws(CatalogError) {
        try onDatabase("check", path) {
            var configuration = Configuration()
            configuration.readonly = true
            configuration.busyMode = .timeout(busySeconds)
            let queue = try DatabaseQueue(path: path, configuration: configuration)
            try queue.inDatabase { try check($0, path) }
            try queue.close()
        }
    }

    /// Renames the catalog of `directory` and its journal so that a new one can take its place.
    /// Returns the new name; nil if there was nothing to rename.
    static func setAside(in directory: String) throws(CatalogError) -> String? {
        let path = "\(directory)/\(Catalog.fileName)"
        guard suffixes.contains(where: { HostDirectory.exists(path + $0) }) else { return nil }
        var number = 1
        func aside() -> String { "\(path).broken-\(number)" }
        while suffixes.contains(where: { HostDirectory.exists(aside() + $0) }) { number += 1 }
        try onFiles("set the damaged catalog aside") { () throws(BlockError) in
            // The file first: without its journal it would be an older state that looks whole.
            for suffix in suffixes where HostDirectory.exists(path + suffix) {
                try HostDirectory.rename(path + suffix, to: aside() + suffix)
            }
            try HostDirectory.flush(directory)
        }
        return aside()
    }

    private static func makePool(_ path: String) throws -> DatabasePool {
        var configuration = Configuration()
        configuration.label = "catalog"
        configuration.foreignKeysEnabled = true
        configuration.busyMode = .timeout(busySeconds)
        let pool = try DatabasePool(path: path, configuration: configuration)
        // The pool sets NORMAL on its writer after `prepareDatabase` has run, and under NORMAL a
        // power loss can take back a commit that a guest's write relied on.
        let settings = try pool.writeWithoutTransaction { database in
            try database.execute(sql: "PRAGMA synchronous = FULL")
            return try Catalog.WriterSettings(database: database)
        }
        guard settings.isSafe else {
            throw CatalogError(
                .other, "open", on: path, detail: "SQLite refuses the settings: \(settings)")
        }
        return pool
    }

    /// Writes zeroes behind the end of the journal, up to the size at which SQLite begins to use
    /// it again: a commit that makes the file grow takes twice as long. SQLite takes zeroes for
    /// the end of the journal, as no frame of its own has a checksum of zeroes.
    private static func growJournal(_ path: String) {
        do throws(BlockError) {
            let file = try HostFile(path: path, access: .readWrite)
            let size = try file.sizeBytes()
            guard size < journalBytes else { return }
            let zeroes = [UInt8](repeating: 0, count: Int(journalBytes - size))
            try zeroes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: size, from: bytes)
            }
            try file.flush()
        } catch {
            // Commits are slower then, and one for which there is no space says so itself.
        }
    }

    private static func check(_ database: Database, _ path: String) throws {
        let id = try Int64.fetchOne(database, sql: "PRAGMA application_id")
        guard id == CatalogMigrations.applicationID else {
            throw CatalogError.corrupt("open", on: path, detail: "the file is not a catalog")
        }
        let problems = try String.fetchAll(database, sql: "PRAGMA integrity_check(5)")
        guard problems == ["ok"] else {
            throw CatalogError.corrupt(
                "open", on: path, detail: problems.joined(separator: "; "))
        }
        if let orphan = try Row.fetchOne(database, sql: "PRAGMA foreign_key_check") {
            throw CatalogError.corrupt(
                "open", on: path, detail: "a row refers to one that is missing: \(orphan)")
        }
        guard try !CatalogMigrations.migrator.hasBeenSuperseded(database) else {
            throw CatalogError(
                .other, "open", on: path,
                detail: "a newer version of tidemark made it; install that version")
        }
    }

    private static func onDatabase<T>(
        _ operation: String, _ path: String, _ body: () throws -> T
    ) throws(CatalogError) -> T {
        do { return try body() } catch let error as CatalogError { throw error } catch {
            throw CatalogError(sqlite: error, operation, on: path)
        }
    }

    private static func onFiles(
        _ operation: String, _ body: () throws(BlockError) -> Void
    ) throws(CatalogError) {
        do throws(BlockError) { try body() } catch { throw CatalogError(error, operation) }
    }
}

import BlockCore
package import Foundation
import GRDB

// A copy of the catalog to be kept elsewhere, made while the agent works.
//
// It has every list and no bits: the bits are of an instant, and the images go on. What a copy says
// of a bitmap is therefore that it is inconsistent, and which point it continued; the next backup
// compares with that point. A backup under way is not in it: its bitmap is as if the backup had
// never begun.
//
// The copy is a plain SQLite file of the present schema, without a journal. It is read by a
// connection of its own, in one transaction, so that nobody waits for it.

extension Catalog {
    private static let withoutBits = ["bitmap_chunk", "activity_region", "leftover"]

    /// Writes a copy to the file `path`, which must not exist. May block. After an error there may
    /// be a part of it at `path`.
    package func copyLists(to path: String, at time: Date = Date()) throws(CatalogError) {
        let operation = "copy to \(path)"
        guard !HostDirectory.exists(path) else {
            throw CatalogError(.duplicate, operation, on: self.path, detail: "that file exists")
        }
        do {
            var configuration = Configuration()
            // Rows arrive table by table; what they refer to is checked at the end.
            configuration.foreignKeysEnabled = false
            configuration.busyMode = .timeout(5)
            // Whoever keeps the copy makes it durable.
            configuration.prepareDatabase { try $0.execute(sql: "PRAGMA synchronous = OFF") }
            let copy = try DatabaseQueue(path: path, configuration: configuration)
            try CatalogMigrations.migrator.migrate(copy)
            try copy.writeWithoutTransaction { database in
                try database.execute(sql: "ATTACH DATABASE ? AS source", arguments: [self.path])
                // Deferred, so that the source is only read.
                try database.inTransaction(.deferred) {
                    try Self.copyTables(in: database)
                    try Self.settle(in: database, at: time)
                    return .commit
                }
                try database.execute(sql: "DETACH DATABASE source")
            }
            try copy.close()
        } catch {
            throw CatalogError(sqlite: error, operation, on: self.path)
        }
    }

    private static func copyTables(in database: Database) throws {
        let tables = try String.fetchAll(
            database,
            sql: "SELECT name FROM source.sqlite_schema WHERE type = 'table'"
                + " AND name NOT LIKE 'sqlite_%' AND name <> 'grdb_migrations'")
        for table in tables where !withoutBits.contains(table) {
            try database.execute(
                sql: "DELETE FROM main.\(table); INSERT INTO main.\(table)"
                    + " SELECT * FROM source.\(table)")
        }
    }

    private static func settle(in database: Database, at time: Date) throws {
        try database.execute(sql: "DELETE FROM bitmap WHERE successorOf IS NOT NULL")
        try database.execute(
            sql: "DELETE FROM bitmap WHERE id IN (SELECT bitmapID FROM working_bitmap);"
                + " DELETE FROM working_bitmap")
        try database.execute(
            sql: "UPDATE bitmap SET pendingRepositoryID = NULL, pendingPointID = NULL,"
                + " inconsistency = ifnull(inconsistency, ?)",
            arguments: ["known from a copy of the catalog of \(time.formatted(.iso8601))"])
        try database.execute(sql: "UPDATE volume SET isCleanlyClosed = 0, heartbeatAt = NULL")
        try database.execute(sql: "UPDATE node SET fingerprint = NULL")
        if let orphan = try Row.fetchOne(database, sql: "PRAGMA main.foreign_key_check") {
            throw CatalogError(
                .other, "copy", on: "catalog", detail: "a row refers to a missing one: \(orphan)")
        }
    }
}

/// Makes a catalog what the first version of the schema had it.
package enum FirstSchema {
    /// Takes from the catalog of a state directory, on which no agent runs, what later versions
    /// added to the first.
    package static func apply(to state: String) throws {
        try Tool.check(["/usr/bin/python3", "-c", script, state])
    }

    /// A program in Python, whose argument is the state directory. What the first
    /// version has stays as it is.
    private static let script = """
        import sqlite3, sys
        tables = {
            "volume": "id uuid name lengthBytes createdAt isCleanlyClosed regionBytes",
            "node": "volumeID position driver format path isOwned fingerprint",
            "activity_region": "volumeID region",
            "repository": "id uuid name location",
            "point": "repositoryID id volumeUUID volumeName level reason parentID groupID"
                " createdAt lengthBytes storedBytes",
            "bitmap": "id volumeID name granularityBytes isRecording inconsistency successorOf"
                " pendingRepositoryID pendingPointID continuesRepositoryID continuesPointID",
            "bitmap_chunk": "bitmapID chunkIndex bits",
            "job": "id startedAt type state endedAt error detail",
        }
        indexes = {"point_volume", "bitmap_pending", "bitmap_continues", "job_started"}
        catalog = sqlite3.connect(sys.argv[1] + "/catalog.sqlite")
        names = lambda kind: [row[0] for row in catalog.execute(
            "SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'"
            " AND name NOT LIKE 'grdb_%'", (kind,))]
        for index in set(names("index")) - indexes:
            catalog.execute(f"DROP INDEX {index}")
        for table in names("table"):
            if table not in tables:
                catalog.execute(f"DROP TABLE {table}")
                continue
            kept = tables[table].split()
            for row in catalog.execute(f"PRAGMA table_info({table})").fetchall():
                if row[1] not in kept:
                    catalog.execute(f"ALTER TABLE {table} DROP COLUMN {row[1]}")
        catalog.execute("DELETE FROM grdb_migrations WHERE identifier <> '1'")
        catalog.commit()
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        """
}

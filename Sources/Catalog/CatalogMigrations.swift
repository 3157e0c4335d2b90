import Foundation
import GRDB

// The schema, as a list of numbered migrations. One that was released is never edited: a change
// is a new number at the end. A catalog with a number that this version does not know was made
// by a newer one and is refused.

/// The migrations that bring a catalog to the present schema.
enum CatalogMigrations {
    /// Marks the file as ours: "Tide" in ASCII.
    static let applicationID: Int64 = 0x5469_6465

    static var migrator: DatabaseMigrator {
        var migrator = DatabaseMigrator()
        migrator.registerMigration("1") { database in
            try database.execute(sql: "PRAGMA application_id = \(applicationID)")
            try database.execute(sql: volumes)
            try database.execute(sql: repositories)
            try database.execute(sql: bitmaps)
            try database.execute(sql: jobs)
        }
        migrator.registerMigration("2") { database in
            try database.execute(sql: "ALTER TABLE volume ADD COLUMN heartbeatAt INTEGER")
            try database.execute(
                sql: "ALTER TABLE node ADD COLUMN isDirect INTEGER NOT NULL"
                    + " DEFAULT 0 CHECK (isDirect IN (0, 1))")
        }
        migrator.registerMigration("3") { database in
            try database.execute(sql: leftovers)
            try database.execute(
                sql: "INSERT INTO identity (uuid) VALUES (?)", arguments: [UUID().uuidString])
        }
        registerRestores(in: &migrator)
        migrator.registerMigration("5") { database in
            try database.execute(
                sql: "ALTER TABLE volume ADD COLUMN durability TEXT NOT NULL"
                    + " DEFAULT 'power' CHECK (durability IN ('power', 'process'))")
            try database.execute(sql: "ALTER TABLE volume ADD COLUMN bootID TEXT")
        }
        registerMirrors(in: &migrator)
        registerChains(in: &migrator)
        registerBackingModes(in: &migrator)
        return migrator
    }

    private static let volumes = """
        CREATE TABLE volume (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE CHECK (name <> ''),
            lengthBytes INTEGER NOT NULL CHECK (lengthBytes >= 0),
            createdAt INTEGER NOT NULL,
            isCleanlyClosed INTEGER NOT NULL CHECK (isCleanlyClosed IN (0, 1)),
            regionBytes INTEGER NOT NULL CHECK (regionBytes > 0)
        ) STRICT;
        CREATE TABLE node (
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            position INTEGER NOT NULL CHECK (position >= 0),
            driver TEXT NOT NULL,
            format TEXT NOT NULL,
            path TEXT NOT NULL,
            isOwned INTEGER NOT NULL CHECK (isOwned IN (0, 1)),
            fingerprint TEXT,
            PRIMARY KEY (volumeID, position)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE activity_region (
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            region INTEGER NOT NULL CHECK (region >= 0),
            PRIMARY KEY (volumeID, region)
        ) STRICT, WITHOUT ROWID;
        """

    private static let repositories = """
        CREATE TABLE repository (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE CHECK (name <> ''),
            location TEXT NOT NULL
        ) STRICT;
        CREATE TABLE point (
            repositoryID INTEGER NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
            id TEXT NOT NULL CHECK (id <> ''),
            volumeUUID TEXT NOT NULL,
            volumeName TEXT NOT NULL,
            level TEXT NOT NULL,
            reason TEXT NOT NULL,
            parentID TEXT,
            groupID TEXT,
            createdAt INTEGER NOT NULL,
            lengthBytes INTEGER NOT NULL CHECK (lengthBytes >= 0),
            storedBytes INTEGER NOT NULL CHECK (storedBytes >= 0),
            PRIMARY KEY (repositoryID, id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX point_volume ON point (volumeUUID, id);
        """

    private static let bitmaps = """
        CREATE TABLE bitmap (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            name TEXT CHECK (name <> ''),
            granularityBytes INTEGER NOT NULL CHECK (granularityBytes > 0),
            isRecording INTEGER NOT NULL CHECK (isRecording IN (0, 1)),
            inconsistency TEXT,
            successorOf INTEGER UNIQUE REFERENCES bitmap (id) DEFERRABLE INITIALLY DEFERRED,
            pendingRepositoryID INTEGER REFERENCES repository (id),
            pendingPointID TEXT,
            continuesRepositoryID INTEGER REFERENCES repository (id),
            continuesPointID TEXT,
            UNIQUE (volumeID, name),
            CHECK ((name IS NULL) = (successorOf IS NOT NULL)),
            CHECK ((pendingRepositoryID IS NULL) = (pendingPointID IS NULL)),
            CHECK ((continuesRepositoryID IS NULL) = (continuesPointID IS NULL))
        ) STRICT;
        CREATE TABLE bitmap_chunk (
            bitmapID INTEGER NOT NULL REFERENCES bitmap (id) ON DELETE CASCADE,
            chunkIndex INTEGER NOT NULL CHECK (chunkIndex >= 0),
            bits BLOB NOT NULL CHECK (length(bits) > 0),
            PRIMARY KEY (bitmapID, chunkIndex)
        ) STRICT;
        CREATE INDEX bitmap_pending ON bitmap (pendingRepositoryID);
        CREATE INDEX bitmap_continues ON bitmap (continuesRepositoryID);
        """

    private static let jobs = """
        CREATE TABLE job (
            id TEXT NOT NULL CHECK (id <> ''),
            startedAt INTEGER NOT NULL,
            type TEXT NOT NULL,
            state TEXT NOT NULL,
            endedAt INTEGER,
            error TEXT,
            detail TEXT NOT NULL CHECK (json_valid(detail)),
            PRIMARY KEY (id, startedAt)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX job_started ON job (startedAt);
        """

    private static let leftovers = """
        CREATE TABLE identity (
            uuid TEXT NOT NULL,
            machineID TEXT,
            stateDirectory TEXT
        ) STRICT;
        CREATE TABLE leftover (
            path TEXT NOT NULL PRIMARY KEY CHECK (path <> ''),
            finalPath TEXT,
            fileIdentity TEXT
        ) STRICT, WITHOUT ROWID;
        """
}

import Bitmaps
import Catalog
import Foundation
import Testing

/// Catalogs as earlier versions left them, made by SQL of their own: what a released version wrote
/// does not change with the sources.
@Suite struct MigrationTests {
    /// The schema as of its first number, with a row in each table.
    static let first = """
        PRAGMA application_id = 1416193125;
        CREATE TABLE grdb_migrations (identifier TEXT NOT NULL PRIMARY KEY);
        INSERT INTO grdb_migrations VALUES ('1');
        CREATE TABLE volume (
            id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE CHECK (name <> ''),
            lengthBytes INTEGER NOT NULL CHECK (lengthBytes >= 0), createdAt INTEGER NOT NULL,
            isCleanlyClosed INTEGER NOT NULL CHECK (isCleanlyClosed IN (0, 1)),
            regionBytes INTEGER NOT NULL CHECK (regionBytes > 0)) STRICT;
        CREATE TABLE node (
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            position INTEGER NOT NULL CHECK (position >= 0), driver TEXT NOT NULL,
            format TEXT NOT NULL, path TEXT NOT NULL,
            isOwned INTEGER NOT NULL CHECK (isOwned IN (0, 1)), fingerprint TEXT,
            PRIMARY KEY (volumeID, position)) STRICT, WITHOUT ROWID;
        CREATE TABLE activity_region (
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            region INTEGER NOT NULL CHECK (region >= 0),
            PRIMARY KEY (volumeID, region)) STRICT, WITHOUT ROWID;
        CREATE TABLE repository (
            id INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL UNIQUE CHECK (name <> ''), location TEXT NOT NULL) STRICT;
        CREATE TABLE point (
            repositoryID INTEGER NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
            id TEXT NOT NULL CHECK (id <> ''), volumeUUID TEXT NOT NULL,
            volumeName TEXT NOT NULL, level TEXT NOT NULL, reason TEXT NOT NULL, parentID TEXT,
            groupID TEXT, createdAt INTEGER NOT NULL,
            lengthBytes INTEGER NOT NULL CHECK (lengthBytes >= 0),
            storedBytes INTEGER NOT NULL CHECK (storedBytes >= 0),
            PRIMARY KEY (repositoryID, id)) STRICT, WITHOUT ROWID;
        CREATE INDEX point_volume ON point (volumeUUID, id);
        CREATE TABLE bitmap (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            volumeID INTEGER NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
            name TEXT CHECK (name <> ''),
            granularityBytes INTEGER NOT NULL CHECK (granularityBytes > 0),
            isRecording INTEGER NOT NULL CHECK (isRecording IN (0, 1)), inconsistency TEXT,
            successorOf INTEGER UNIQUE REFERENCES bitmap (id) DEFERRABLE INITIALLY DEFERRED,
            pendingRepositoryID INTEGER REFERENCES repository (id), pendingPointID TEXT,
            continuesRepositoryID INTEGER REFERENCES repository (id), continuesPointID TEXT,
            UNIQUE (volumeID, name), CHECK ((name IS NULL) = (successorOf IS NOT NULL)),
            CHECK ((pendingRepositoryID IS NULL) = (pendingPointID IS NULL)),
            CHECK ((continuesRepositoryID IS NULL) = (continuesPointID IS NULL))) STRICT;
        CREATE TABLE bitmap_chunk (
            bitmapID INTEGER NOT NULL REFERENCES bitmap (id) ON DELETE CASCADE,
            chunkIndex INTEGER NOT NULL CHECK (chunkIndex >= 0),
            bits BLOB NOT NULL CHECK (length(bits) > 0),
            PRIMARY KEY (bitmapID, chunkIndex)) STRICT;
        CREATE INDEX bitmap_pending ON bitmap (pendingRepositoryID);
        CREATE INDEX bitmap_continues ON bitmap (continuesRepositoryID);
        CREATE TABLE job (
            id TEXT NOT NULL CHECK (id <> ''), startedAt INTEGER NOT NULL, type TEXT NOT NULL,
            state TEXT NOT NULL, endedAt INTEGER, error TEXT,
            detail TEXT NOT NULL CHECK (json_valid(detail)),
            PRIMARY KEY (id, startedAt)) STRICT, WITHOUT ROWID;
        CREATE INDEX job_started ON job (startedAt);
        INSERT INTO volume VALUES
            (7, '0B8C0F56-7B1F-4C12-9E0B-4D3F5C1A2B3C', 'vm1', 1048576, 1000000, 0, 1048576);
        INSERT INTO node VALUES (7, 0, 'file', 'qcow2', '/images/vm1.qcow2', 1, 'look');
        INSERT INTO activity_region VALUES (7, 5);
        INSERT INTO repository VALUES
            (3, 'D4A3F3A0-5F43-4C69-8E3E-0A1B2C3D4E5F', 'vault', '/backup');
        INSERT INTO point VALUES (3, 'p1', '0B8C0F56-7B1F-4C12-9E0B-4D3F5C1A2B3C', 'vm1', 'full',
            'first', NULL, NULL, 2000000, 1048576, 4096);
        INSERT INTO bitmap VALUES (9, 7, 'nightly', 65536, 1, NULL, NULL, NULL, NULL, 3, 'p1');
        INSERT INTO bitmap_chunk VALUES (9, 0, x'0102');
        INSERT INTO job VALUES ('backup-1', 2000000, 'backup', 'concluded', 3000000, NULL, '{}');
        """

    /// What the second number added.
    static let second = """
        ALTER TABLE volume ADD COLUMN heartbeatAt INTEGER;
        ALTER TABLE node ADD COLUMN isDirect INTEGER NOT NULL DEFAULT 0 CHECK (isDirect IN (0, 1));
        INSERT INTO grdb_migrations VALUES ('2');
        """

    @Test(arguments: 1...2)
    func aReleasedCatalogKeepsAllItKnows(number: Int) throws {
        let directory = try TemporaryDirectory()
        let released = [Self.first, Self.second].prefix(number)
        try runScript(released.joined(), on: directory.catalogPath)
        let catalog = try Catalog(directory: directory.path)

        let volume = try catalog.volume(named: "vm1")
        #expect(volume.id == 7 && volume.regionBytes == 1 << 20 && !volume.isCleanlyClosed)
        #expect(try catalog.nodes(ofVolume: 7).map(\.fingerprint) == ["look"])
        #expect(try catalog.announcedRegions(ofVolume: 7) == [5])
        let bitmap = try catalog.bitmap(9)
        #expect(bitmap.continues == PointReference(repositoryID: 3, pointID: "p1"))
        let bits = try catalog.load(bitmap, lengthBytes: 1 << 20)
        #expect(bits.dirtyBytes == 2 * 65536)
        #expect(try catalog.points().map(\.id) == ["p1"])
        #expect(try catalog.jobs().map(\.id) == ["backup-1"])
        #expect(try !catalog.identity().uuid.isEmpty)
        #expect(catalog.damage().isEmpty)
    }

    @Test func aMigratedSchemaIsThatOfANewCatalog() throws {
        let migrated = try TemporaryDirectory()
        try runScript(Self.first, on: migrated.catalogPath)
        try Catalog(directory: migrated.path).close()
        let fresh = try TemporaryDirectory()
        try Catalog(directory: fresh.path).close()
        // Formatting differs where a released version wrote the text; columns must not.
        let columns = """
            SELECT t.name || '.' || c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || c.pk
            FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'
            ORDER BY t.name, c.name
            """
        let expected = try runSQL(columns, on: fresh.catalogPath)
        #expect(!expected.isEmpty)
        #expect(try runSQL(columns, on: migrated.catalogPath) == expected)
        let indexes = "SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY name"
        #expect(
            try runSQL(indexes, on: migrated.catalogPath)
                == runSQL(indexes, on: fresh.catalogPath))
    }
}

import GRDB

extension CatalogMigrations {
    /// What restored volumes continue, and the pins of points that volumes depend on.
    static func registerRestores(in migrator: inout DatabaseMigrator) {
        migrator.registerMigration("4") { database in
            try database.execute(sql: "ALTER TABLE volume ADD COLUMN lineageUUID TEXT")
            try database.execute(sql: pins)
        }
    }

    private static let pins = """
        CREATE TABLE point_pin (
            id TEXT NOT NULL PRIMARY KEY CHECK (id <> ''),
            repositoryID INTEGER NOT NULL REFERENCES repository (id),
            pointID TEXT NOT NULL,
            volumeID INTEGER UNIQUE REFERENCES volume (id) ON DELETE SET NULL,
            isDetaching INTEGER NOT NULL DEFAULT 0 CHECK (isDetaching IN (0, 1))
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX point_pin_repository ON point_pin (repositoryID);
        """
}

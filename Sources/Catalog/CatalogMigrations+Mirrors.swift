import GRDB

extension CatalogMigrations {
    /// The bitmaps that jobs work off.
    static func registerMirrors(in migrator: inout DatabaseMigrator) {
        migrator.registerMigration("6") { database in
            try database.execute(
                sql: """
                    CREATE TABLE working_bitmap (
                        bitmapID INTEGER PRIMARY KEY REFERENCES bitmap (id) ON DELETE CASCADE,
                        jobID TEXT NOT NULL CHECK (jobID <> '')
                    ) STRICT;
                    """)
        }
    }
}

import GRDB

extension CatalogMigrations {
    /// What volumes do about what is below their top.
    static func registerBackingModes(in migrator: inout DatabaseMigrator) {
        migrator.registerMigration("8") { database in
            try database.execute(
                sql: "ALTER TABLE volume ADD COLUMN backingMode TEXT NOT NULL"
                    + " DEFAULT 'cow' CHECK (backingMode IN ('cow', 'cor', 'stream'))")
        }
    }
}

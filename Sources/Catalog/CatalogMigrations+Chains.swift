import GRDB

extension CatalogMigrations {
    /// What is being done to images below the top. It replaces what pins said of images that a
    /// volume was about to need no more.
    static func registerChains(in migrator: inout DatabaseMigrator) {
        migrator.registerMigration("7") { database in
            try database.execute(
                sql: """
                    ALTER TABLE node ADD COLUMN change TEXT
                        CHECK (change IN ('leaving', 'written'));
                    UPDATE node SET change = 'leaving' WHERE position > 0 AND volumeID IN
                        (SELECT volumeID FROM point_pin WHERE isDetaching = 1);
                    ALTER TABLE point_pin DROP COLUMN isDetaching;
                    """)
        }
    }
}

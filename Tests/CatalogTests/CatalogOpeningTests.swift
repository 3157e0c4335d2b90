import BlockCore
import Catalog
import Foundation
import Testing

@Suite struct CatalogOpeningTests {
    @Test func everyCommitIsOnTheMediumWhenItReturns() throws {
        let directory = try TemporaryDirectory()
        for _ in 0..<2 {
            let catalog = try Catalog(directory: directory.path)
            let settings = try catalog.writerSettings()
            #expect(settings.synchronous == 2)
            #expect(settings.journalMode == "wal")
            #expect(settings.enforcesForeignKeys)
            try catalog.close()
        }
    }

    @Test func whatWasWrittenIsThereAfterReopening() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        let volume = try catalog.insertFixture().volume
        try catalog.close()
        let reopened = try Catalog(directory: directory.path)
        #expect(try reopened.volumes() == [volume])
    }

    @Test func aDamagedCatalogIsRefusedAndLeftAsItIs() throws {
        let damages: [(name: String, damage: (inout Data) -> Void)] = [
            ("empty", { $0 = Data() }),
            ("garbage", { $0 = Data("this is no database, by no means".utf8) }),
            ("cut", { $0 = $0.prefix(8192) }),
            (
                "page",
                { $0.replaceSubrange(8192..<12288, with: Data(repeating: 0xa5, count: 4096)) }
            ),
        ]
        for (name, damage) in damages {
            let directory = try TemporaryDirectory()
            let catalog = try Catalog(directory: directory.path)
            _ = try catalog.insertFixture()
            try catalog.close()
            var bytes = try directory.catalogBytes()[0]
            damage(&bytes)
            try bytes.write(to: URL(fileURLWithPath: directory.catalogPath))
            let error = catalogError { _ = try Catalog(directory: directory.path) }
            #expect(error?.kind == .corrupt, "\(name): \(String(describing: error))")
            #expect(
                error?.detail.contains("tidemark repo rebuild-catalog LOCATION…") == true, "\(name)"
            )
            #expect(try directory.catalogBytes()[0] == bytes, "\(name)")
        }
    }

    @Test func aJournalWithoutItsFileIsNotTakenForANewCatalog() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        _ = try catalog.insertFixture()
        let copy = try directory.copyOfCatalog()
        try HostDirectory.removeFile(copy.catalogPath)
        let error = catalogError { _ = try Catalog(directory: copy.path) }
        #expect(error?.kind == .corrupt)
        #expect(try copy.catalogBytes()[1] == directory.catalogBytes()[1])
    }

    @Test func aRowThatBreaksAConstraintIsDamage() throws {
        let directory = try TemporaryDirectory()
        let catalog = try Catalog(directory: directory.path)
        _ = try catalog.insertFixture()
        try catalog.close()
        // Python leaves foreign keys unenforced.
        _ = try runSQL("INSERT INTO activity_region VALUES (99, 1)", on: directory.catalogPath)
        let error = catalogError { _ = try Catalog(directory: directory.path) }
        #expect(error?.kind == .corrupt)
        #expect(error?.detail.contains("refers to one that is missing") == true)
    }

    @Test func anotherProgramsDatabaseIsRefused() throws {
        let directory = try TemporaryDirectory()
        _ = try runSQL("CREATE TABLE t (x)", on: directory.catalogPath)
        let error = catalogError { _ = try Catalog(directory: directory.path) }
        #expect(error?.kind == .corrupt)
        #expect(error?.detail.contains("not a catalog") == true)
    }

    @Test func aCatalogOfANewerVersionIsRefused() throws {
        let directory = try TemporaryDirectory()
        try Catalog(directory: directory.path).close()
        let migrations = "SELECT identifier FROM grdb_migrations"
        #expect(
            try runSQL(migrations, on: directory.catalogPath)
                == ["1", "2", "3", "4", "5", "6", "7", "8"])
        _ = try runSQL("INSERT INTO grdb_migrations VALUES ('999')", on: directory.catalogPath)
        let error = catalogError { _ = try Catalog(directory: directory.path) }
        #expect(error?.kind == .other)
        #expect(error?.detail.contains("newer version") == true)
    }

    @Test func anInterruptedCreationIsBegunAgain() throws {
        let directory = try TemporaryDirectory()
        for suffix in [".new", ".new-wal"] {
            try Data("half".utf8).write(
                to: URL(fileURLWithPath: directory.catalogPath + suffix))
        }
        let catalog = try Catalog(directory: directory.path)
        _ = try catalog.insertFixture()
        #expect(!HostDirectory.exists(directory.catalogPath + ".new"))
    }

    @Test func aCatalogThatIsSetAsideKeepsItsContent() throws {
        let directory = try TemporaryDirectory()
        #expect(try Catalog.setAside(in: directory.path) == nil)
        for number in 1...2 {
            let catalog = try Catalog(directory: directory.path)
            _ = try catalog.insertFixture(volume: "volume-\(number)")
            // As a crash would leave it, journal and all.
            let crashed = try directory.copyOfCatalog()
            let aside = try #require(try Catalog.setAside(in: crashed.path))
            #expect(aside == crashed.catalogPath + ".broken-1")
            #expect(try runSQL("SELECT name FROM volume", on: aside) == ["volume-\(number)"])
            try catalog.close()
            #expect(
                try Catalog.setAside(in: directory.path)
                    == directory.catalogPath + ".broken-\(number)")
        }
        let fresh = try Catalog(directory: directory.path)
        #expect(try fresh.volumes().isEmpty)
    }

    @Test func aStateDirectoryHasOneAgent() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/deep/state"
        var lock: StateDirectoryLock? = try StateDirectoryLock(directory: path)
        let error = catalogError { _ = try StateDirectoryLock(directory: path) }
        #expect(error?.kind == .locked)
        #expect(error?.detail.contains("process id \(getpid())") == true)
        #expect(error?.detail.contains("--state") == true)
        withExtendedLifetime(lock) {}
        lock = nil
        #expect(throws: Never.self) { try StateDirectoryLock(directory: path) }
    }
}

import Bitmaps
import BlockCore
import Catalog
import Foundation
import Synchronization

/// A directory of a test's own, removed when the last reference goes.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/tidemark-catalog-\(UUID().uuidString)"
        try HostDirectory.create(path)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// The catalog's file.
    var catalogPath: String { "\(path)/\(Catalog.fileName)" }

    /// What the catalog's file and its journal hold.
    func catalogBytes() throws -> [Data] {
        try ["", "-wal"].map { suffix in
            let file = catalogPath + suffix
            guard FileManager.default.fileExists(atPath: file) else { return Data() }
            return try Data(contentsOf: URL(fileURLWithPath: file))
        }
    }

    /// A directory with copies of the catalog's file and journal as they are now: what a kill of
    /// the process at this instant would leave.
    func copyOfCatalog() throws -> TemporaryDirectory {
        let copy = try TemporaryDirectory()
        for suffix in ["", "-wal"]
        where FileManager.default.fileExists(atPath: catalogPath + suffix) {
            try FileManager.default.copyItem(
                atPath: catalogPath + suffix, toPath: copy.catalogPath + suffix)
        }
        return copy
    }
}

/// Runs SQL on a database file with Python's SQLite, as anybody else could. Returns the first
/// column of the rows.
func runSQL(_ sql: String, on path: String) throws -> [String] {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
    let script = """
        import sqlite3, sys
        database = sqlite3.connect(sys.argv[1], isolation_level=None)
        for row in database.execute(sys.argv[2]): print(row[0])
        """
    process.arguments = ["-c", script, path, sql]
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw SQLFailed(sql: sql) }
    return String(decoding: data, as: UTF8.self).split(separator: "\n").map(String.init)
}

/// Runs several statements on a database file, which is made if there is none.
func runScript(_ sql: String, on path: String) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
    let script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"
    process.arguments = ["-c", script, path, sql]
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw SQLFailed(sql: sql) }
}

struct SQLFailed: Error { let sql: String }

/// Calls `body` and returns the `CatalogError` that it throws, if it throws one.
func catalogError(_ body: () throws -> Void) -> CatalogError? {
    do { try body() } catch { return error as? CatalogError }
    return nil
}

/// A time that the catalog stores exactly.
func wholeSeconds(_ seconds: Int) -> Date { Date(timeIntervalSince1970: TimeInterval(seconds)) }

extension Catalog {
    /// Adds a volume of `lengthBytes` with one qcow2 node, and a repository.
    func insertFixture(
        volume name: String = "a", lengthBytes: UInt64 = 1 << 30
    ) throws -> (volume: VolumeRecord, repository: RepositoryRecord) {
        try write { (transaction) throws(CatalogError) in
            let volume = try transaction.insertVolume(
                VolumeRecord(
                    name: name, lengthBytes: lengthBytes, createdAt: wholeSeconds(1),
                    regionBytes: 1 << 20),
                nodes: [NodeRecord(format: "qcow2", path: "/\(name).qcow2", isOwned: true)])
            let repository = try transaction.insertRepository(
                RepositoryRecord(uuid: UUID(), name: "repo-\(name)", location: "/repo"))
            return (volume, repository)
        }
    }

    /// Adds a recording bitmap of 64 KiB granularity.
    func insertBitmap(_ name: String, of volume: VolumeRecord) throws -> BitmapRecord {
        try write { (transaction) throws(CatalogError) in
            try transaction.insertBitmap(
                BitmapRecord(volumeID: volume.id, name: name, granularityBytes: 65536))
        }
    }

    /// The stored bits of a bitmap, in memory.
    func load(_ record: BitmapRecord, lengthBytes: UInt64 = 1 << 30) throws -> DirtyBitmap {
        let bitmap = try DirtyBitmap(
            lengthBytes: lengthBytes, granularityBytes: record.granularityBytes)
        try loadChunks(ofBitmap: record.id, into: bitmap)
        return bitmap
    }
}

/// A point of `volume` with that id.
func makePoint(
    _ id: String, of volume: VolumeRecord, in repository: RepositoryRecord
) -> PointRecord {
    PointRecord(
        id: id, repositoryID: repository.id, volumeUUID: volume.uuid, volumeName: volume.name,
        level: "full", reason: "first", createdAt: wholeSeconds(2),
        lengthBytes: volume.lengthBytes, storedBytes: 4096)
}

/// Fails the commit with a given number, counted from the last `arm`.
final class CommitFault: Sendable {
    private let remaining = Atomic<Int>(-1)
    private let error: CatalogError

    init(_ error: CatalogError) { self.error = error }

    /// Makes the `number`th commit from now fail; the next is number 0.
    func arm(_ number: Int) { remaining.store(number, ordering: .relaxed) }

    /// What the catalog is to call at the end of each transaction.
    func next() -> CatalogError? {
        remaining.subtract(1, ordering: .relaxed).oldValue == 0 ? error : nil
    }
}

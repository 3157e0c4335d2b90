package import Foundation
import GRDB

// The single changes of which a transaction is made. `CatalogTransaction+Backup` puts those
// together that a backup needs at one instant.

/// A transaction under way, for the duration of the call that it was handed to. What it reads
/// includes what it changed.
package final class CatalogTransaction: CatalogSnapshot {
    // MARK: Volumes

    /// Adds a volume with its nodes, from the top down. Returns it with its number. Throws
    /// `duplicate` if the name or the UUID is taken.
    package func insertVolume(
        _ volume: VolumeRecord, nodes: [NodeRecord]
    ) throws(CatalogError) -> VolumeRecord {
        var volume = volume
        try execute(
            "INSERT INTO volume (uuid, name, lengthBytes, createdAt, isCleanlyClosed, regionBytes,"
                + " durability, lineageUUID) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                volume.uuid.uuidString, volume.name, try integer(volume.lengthBytes),
                volume.createdAt.microseconds, volume.isCleanlyClosed,
                try integer(volume.regionBytes), volume.durability.rawValue,
                volume.lineageUUID?.uuidString,
            ], "insert the volume \(volume.name)")
        volume.id = database.lastInsertedRowID
        try insertNodes(nodes, ofVolume: volume.id)
        return volume
    }

    /// Removes a volume with its nodes, bitmaps and activity log. Its points stay.
    package func deleteVolume(_ id: Int64) throws(CatalogError) {
        try executeOnOne("DELETE FROM volume WHERE id = ?", [id], "delete the volume \(id)")
    }

    /// Says whether the bitmaps of a volume are exact as they stand in the catalog.
    package func setCleanlyClosed(
        _ isCleanlyClosed: Bool, volume id: Int64
    ) throws(CatalogError) {
        try executeOnOne(
            "UPDATE volume SET isCleanlyClosed = ? WHERE id = ?", [isCleanlyClosed, id],
            "change the volume \(id)")
    }

    /// Says what a volume does about what is below its top.
    package func setBackingMode(_ mode: BackingMode, volume id: Int64) throws(CatalogError) {
        try executeOnOne(
            "UPDATE volume SET backingMode = ? WHERE id = ?", [mode.rawValue, id],
            "change the volume \(id)")
    }

    /// Says that a volume is open since the start of the host that has the id `bootID`.
    package func setOpened(volume id: Int64, bootID: String?) throws(CatalogError) {
        try executeOnOne(
            "UPDATE volume SET isCleanlyClosed = 0, bootID = ? WHERE id = ?", [bootID, id],
            "change the volume \(id)")
    }

    /// Says that volumes are open at `time`: what has changed their images later was not us.
    package func beat(_ volumeIDs: [Int64], at time: Date) throws(CatalogError) {
        let list = "[\(volumeIDs.map(String.init).joined(separator: ","))]"
        try execute(
            "UPDATE volume SET heartbeatAt = ? WHERE id IN (SELECT value FROM json_each(?))",
            [time.microseconds, list], "record the heartbeat of volumes")
    }

    /// Replaces what is recorded of how the images of a volume look, from the top down.
    package func setFingerprints(
        _ fingerprints: [String], ofVolume volumeID: Int64
    ) throws(CatalogError) {
        for (position, fingerprint) in fingerprints.enumerated() {
            try executeOnOne(
                "UPDATE node SET fingerprint = ? WHERE volumeID = ? AND position = ?",
                [fingerprint, volumeID, position], "record the fingerprint of a node")
        }
    }

    /// Changes the length of a volume and the size of its regions, of which there may be none in
    /// the activity log. Its bitmaps' chunks are the caller's to put.
    package func setLength(
        _ lengthBytes: UInt64, regionBytes: UInt64, volume id: Int64
    ) throws(CatalogError) {
        try executeOnOne(
            "UPDATE volume SET lengthBytes = ?, regionBytes = ? WHERE id = ?",
            [try integer(lengthBytes), try integer(regionBytes), id], "change the volume \(id)")
    }

    /// Replaces the chain of a volume.
    package func setNodes(
        _ nodes: [NodeRecord], ofVolume volumeID: Int64
    ) throws(CatalogError) {
        try execute(
            "DELETE FROM node WHERE volumeID = ?", [volumeID], "change the nodes of a volume")
        try insertNodes(nodes, ofVolume: volumeID)
    }

    // MARK: Activity log

    /// Adds regions to the activity log of a volume; those that are in it stay.
    package func announce(_ regions: [UInt64], ofVolume volumeID: Int64) throws(CatalogError) {
        for region in regions {
            // Not OR IGNORE, which would also ignore that the region number is out of range.
            try execute(
                "INSERT INTO activity_region (volumeID, region) VALUES (?, ?)"
                    + " ON CONFLICT DO NOTHING",
                [volumeID, try integer(region)], "announce a region")
        }
    }

    /// Takes regions out of the activity log: what was written in them is in the chunks that were
    /// put before, in this transaction at the latest.
    package func removeRegions(
        _ regions: [UInt64], ofVolume volumeID: Int64
    ) throws(CatalogError) {
        for region in regions {
            try execute(
                "DELETE FROM activity_region WHERE volumeID = ? AND region = ?",
                [volumeID, try integer(region)], "remove a region from the activity log")
        }
    }

    /// Takes all regions of a volume out of its activity log, under the rule of `removeRegions`.
    package func clearRegions(ofVolume volumeID: Int64) throws(CatalogError) {
        try execute(
            "DELETE FROM activity_region WHERE volumeID = ?", [volumeID],
            "clear the activity log")
    }

    // MARK: Repositories and points

    /// Adds a repository. Returns it with its number. Throws `duplicate` if the name or the UUID
    /// is taken.
    package func insertRepository(
        _ repository: RepositoryRecord
    ) throws(CatalogError) -> RepositoryRecord {
        var repository = repository
        try execute(
            "INSERT INTO repository (uuid, name, location) VALUES (?, ?, ?)",
            [repository.uuid.uuidString, repository.name, repository.location],
            "insert the repository \(repository.name)")
        repository.id = database.lastInsertedRowID
        return repository
    }

    /// Forgets a repository and its points; bitmaps that continue one of them continue nothing
    /// then. Throws `busy` while a backup to it is not settled.
    package func deleteRepository(_ id: Int64) throws(CatalogError) {
        let operation = "forget the repository \(id)"
        guard try !frozenBitmaps().contains(where: { $0.pending?.repositoryID == id }) else {
            throw CatalogError(
                .busy, operation, on: path,
                detail: "a backup to it is not settled; wait for it, or cancel it")
        }
        try execute(
            "UPDATE bitmap SET continuesRepositoryID = NULL, continuesPointID = NULL"
                + " WHERE continuesRepositoryID = ?", [id], operation)
        try executeOnOne("DELETE FROM repository WHERE id = ?", [id], operation)
    }

    /// Adds a point, or replaces what is known of it.
    package func upsertPoint(_ point: PointRecord) throws(CatalogError) {
        try execute(
            "INSERT OR REPLACE INTO point (repositoryID, id, volumeUUID, volumeName, level, reason,"
                + " parentID, groupID, createdAt, lengthBytes, storedBytes)"
                + " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                point.repositoryID, point.id, point.volumeUUID.uuidString, point.volumeName,
                point.level, point.reason, point.parentID, point.groupID,
                point.createdAt.microseconds, try integer(point.lengthBytes),
                try integer(point.storedBytes),
            ], "insert the point \(point.id)")
    }

    /// Forgets a point; bitmaps that continue it continue nothing then.
    package func deletePoint(_ point: PointReference) throws(CatalogError) {
        let operation = "forget the point \(point.pointID)"
        try execute(
            "UPDATE bitmap SET continuesRepositoryID = NULL, continuesPointID = NULL"
                + " WHERE continuesRepositoryID = ? AND continuesPointID = ?",
            [point.repositoryID, point.pointID], operation)
        try executeOnOne(
            "DELETE FROM point WHERE repositoryID = ? AND id = ?",
            [point.repositoryID, point.pointID], operation)
    }

    // MARK: Jobs

    /// Adds a run of a job, or replaces what is known of it; but that it has ended stays known.
    package func upsertJob(_ job: JobRecord) throws(CatalogError) {
        try execute(
            "INSERT INTO job (id, startedAt, type, state, endedAt, error, detail)"
                + " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                + " type = excluded.type, state = excluded.state, endedAt = excluded.endedAt,"
                + " error = excluded.error, detail = excluded.detail"
                + " WHERE endedAt IS NULL OR excluded.endedAt IS NOT NULL",
            [
                job.id, job.startedAt.microseconds, job.type, job.state,
                job.endedAt?.microseconds, job.error, job.detail,
            ], "record the job \(job.id)")
    }

    /// Forgets the runs that ended before `time`.
    package func deleteJobs(endedBefore time: Date) throws(CatalogError) {
        try execute(
            "DELETE FROM job WHERE endedAt < ?", [time.microseconds], "forget old jobs")
    }

    // MARK: The agent's own

    /// Records where the catalog is used.
    package func setPlace(
        machineID: String?, stateDirectory: String
    ) throws(CatalogError) {
        try executeOnOne(
            "UPDATE identity SET machineID = ?, stateDirectory = ?", [machineID, stateDirectory],
            "record the place of the catalog")
    }

    /// Records a file that must not outlive a crash.
    package func insertLeftover(_ leftover: LeftoverRecord) throws(CatalogError) {
        try execute(
            "INSERT OR REPLACE INTO leftover (path, finalPath, fileIdentity) VALUES (?, ?, ?)",
            [leftover.path, leftover.finalPath, leftover.fileIdentity],
            "record the file \(leftover.path)")
    }

    /// Forgets a file that is gone, or where it belongs.
    package func deleteLeftover(_ path: String) throws(CatalogError) {
        try execute("DELETE FROM leftover WHERE path = ?", [path], "forget the file \(path)")
    }

    // MARK: For the other files of this class

    func execute(
        _ sql: String, _ arguments: StatementArguments, _ operation: @autoclosure () -> String
    ) throws(CatalogError) {
        try perform(operation()) { database in
            try database.cachedStatement(sql: sql).execute(arguments: arguments)
        }
    }

    /// Executes what must change a row, and throws `notFound` if it changes none.
    func executeOnOne(
        _ sql: String, _ arguments: StatementArguments, _ operation: @autoclosure () -> String
    ) throws(CatalogError) {
        try execute(sql, arguments, operation())
        guard database.changesCount > 0 else {
            throw CatalogError(.notFound, operation(), on: path, detail: "there is none")
        }
    }

    /// `number` as SQLite can hold it.
    func integer(_ number: UInt64) throws(CatalogError) -> Int64 {
        guard let integer = Int64(exactly: number) else {
            throw CatalogError(
                .other, "store the number \(number)", on: path, detail: "it is above 2^63 − 1")
        }
        return integer
    }

    private func insertNodes(
        _ nodes: [NodeRecord], ofVolume volumeID: Int64
    ) throws(CatalogError) {
        for (position, node) in nodes.enumerated() {
            try execute(
                "INSERT INTO node"
                    + " (volumeID, position, driver, format, path, isOwned, fingerprint, isDirect,"
                    + " change) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    volumeID, position, node.driver, node.format, node.path, node.isOwned,
                    node.fingerprint, node.isDirect, node.change?.rawValue,
                ], "insert the node \(node.path)")
        }
    }
}

package import Foundation
import GRDB

/// What the catalog remembers of a restore point. The repository is the authority; this is for
/// lists and for choosing a parent without asking it.
package struct PointRecord: Hashable, Sendable {
    /// Unique in its repository; sorts by time.
    package var id: String
    package var repositoryID: Int64
    package var volumeUUID: UUID
    /// The volume's name when the point was made.
    package var volumeName: String
    /// "full" or "incremental".
    package var level: String
    /// Why that level.
    package var reason: String
    package var parentID: String?
    package var groupID: String?
    package var createdAt: Date
    /// The length of the volume at the point.
    package var lengthBytes: UInt64
    /// What the point takes in the repository.
    package var storedBytes: UInt64

    package init(
        id: String, repositoryID: Int64, volumeUUID: UUID, volumeName: String, level: String,
        reason: String, parentID: String? = nil, groupID: String? = nil, createdAt: Date,
        lengthBytes: UInt64, storedBytes: UInt64
    ) {
        self.id = id
        self.repositoryID = repositoryID
        self.volumeUUID = volumeUUID
        self.volumeName = volumeName
        self.level = level
        self.reason = reason
        self.parentID = parentID
        self.groupID = groupID
        self.createdAt = createdAt
        self.lengthBytes = lengthBytes
        self.storedBytes = storedBytes
    }

    package var reference: PointReference {
        PointReference(repositoryID: repositoryID, pointID: id)
    }

    package var parentReference: PointReference? {
        parentID.map { PointReference(repositoryID: repositoryID, pointID: $0) }
    }
}

extension PointRecord: CatalogRow {
    init(row: Row) throws(CatalogError) {
        self.init(
            id: row["id"], repositoryID: row["repositoryID"],
            volumeUUID: try row.uuid("volumeUUID"), volumeName: row["volumeName"],
            level: row["level"], reason: row["reason"], parentID: row["parentID"],
            groupID: row["groupID"], createdAt: row.date("createdAt"),
            lengthBytes: row["lengthBytes"], storedBytes: row["storedBytes"])
    }
}

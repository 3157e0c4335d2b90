import GRDB

/// A pin that this agent registers, has registered or is to take away, in a repository.
package struct PinRecord: Hashable, Sendable {
    package var id: String
    package var point: PointReference
    /// The volume that is an overlay of the point; nil for a pin that nothing needs any more, or
    /// that is being made.
    package var volumeID: Int64?

    package init(id: String, point: PointReference, volumeID: Int64? = nil) {
        self.id = id
        self.point = point
        self.volumeID = volumeID
    }
}

extension PinRecord: CatalogRow {
    init(row: Row) {
        self.init(
            id: row["id"],
            point: PointReference(repositoryID: row["repositoryID"], pointID: row["pointID"]),
            volumeID: row["volumeID"])
    }
}

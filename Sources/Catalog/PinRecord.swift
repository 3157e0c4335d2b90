import GRDB

/// A pin that this agent registers, has registered or is to take away, in a repository.
package struct PinRecord: Hashable, Sendable {
    package var id: String
    package var point: PointReference
    /// The volume that is an overlay of the point; nil for a pin that nothing needs any more, or
    /// that is being made.
    package var volumeID: Int64?
    /// Whether everything that the volume had of the point is in its own image, so that the image
    /// may be found to depend on the point no more.
    package var isDetaching: Bool

    package init(
        id: String, point: PointReference, volumeID: Int64? = nil, isDetaching: Bool = false
    ) {
        self.id = id
        self.point = point
        self.volumeID = volumeID
        self.isDetaching = isDetaching
    }
}

extension PinRecord: CatalogRow {
    init(row: Row) {
        self.init(
            id: row["id"],
            point: PointReference(repositoryID: row["repositoryID"], pointID: row["pointID"]),
            volumeID: row["volumeID"], isDetaching: row["isDetaching"])
    }
}

import GRDB

/// Names a restore point: one that is in its repository, or one that is to come.
package struct PointReference: Hashable, Sendable {
    package var repositoryID: Int64
    package var pointID: String

    package init(repositoryID: Int64, pointID: String) {
        self.repositoryID = repositoryID
        self.pointID = pointID
    }

    /// The reference in the two columns that begin with `prefix`; nil if they are null.
    init?(row: Row, prefix: String) {
        guard let repositoryID = row[prefix + "RepositoryID"] as Int64?,
            let pointID = row[prefix + "PointID"] as String?
        else { return nil }
        self.init(repositoryID: repositoryID, pointID: pointID)
    }
}

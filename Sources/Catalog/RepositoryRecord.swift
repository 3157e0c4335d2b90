package import Foundation
import GRDB

/// A repository that the agent knows by name.
package struct RepositoryRecord: Hashable, Sendable {
    /// The row's number, never used again for another; 0 before it is inserted.
    package var id: Int64
    /// The identity that the repository itself states.
    package var uuid: UUID
    package var name: String
    package var location: String

    package init(id: Int64 = 0, uuid: UUID, name: String, location: String) {
        self.id = id
        self.uuid = uuid
        self.name = name
        self.location = location
    }
}

extension RepositoryRecord: CatalogRow {
    init(row: Row) throws(CatalogError) {
        self.init(
            id: row["id"], uuid: try row.uuid("uuid"), name: row["name"],
            location: row["location"])
    }
}

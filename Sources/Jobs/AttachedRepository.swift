package import Repository

/// A repository that the agent knows: its row in the catalog, and the repository itself.
package struct AttachedRepository: Sendable {
    package let id: Int64
    package let name: String
    package let repository: any BackupRepository

    package init(id: Int64, name: String, repository: any BackupRepository) {
        self.id = id
        self.name = name
        self.repository = repository
    }
}

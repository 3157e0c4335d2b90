import GRDB

/// Whose catalog it is: what tells the copies of several agents in one repository apart.
package struct CatalogIdentity: Hashable, Sendable {
    /// Made with the catalog, and new in a rebuilt one.
    package var uuid: String
    /// The host on which an agent last used it, as `/etc/machine-id` has it; nil if none did.
    package var machineID: String?
    /// The state directory in which it last was.
    package var stateDirectory: String?

    package init(uuid: String, machineID: String? = nil, stateDirectory: String? = nil) {
        self.uuid = uuid
        self.machineID = machineID
        self.stateDirectory = stateDirectory
    }
}

extension CatalogIdentity: CatalogRow {
    init(row: Row) {
        self.init(
            uuid: row["uuid"], machineID: row["machineID"], stateDirectory: row["stateDirectory"])
    }
}

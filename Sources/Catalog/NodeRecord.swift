import GRDB

/// One image of a volume's backing chain.
package struct NodeRecord: Hashable, Sendable {
    /// What opens the path: "file".
    package var driver: String
    /// The image format: "qcow2" or "raw".
    package var format: String
    package var path: String
    /// Whether the agent created the image, and removes it with the volume.
    package var isOwned: Bool
    /// What the image looked like at the last open or clean close, in the words of whoever
    /// compares it.
    package var fingerprint: String?
    /// Whether its content bypasses the host's page cache.
    package var isDirect: Bool

    package init(
        driver: String = "file", format: String, path: String, isOwned: Bool,
        fingerprint: String? = nil, isDirect: Bool = false
    ) {
        self.driver = driver
        self.format = format
        self.path = path
        self.isOwned = isOwned
        self.fingerprint = fingerprint
        self.isDirect = isDirect
    }
}

extension NodeRecord: CatalogRow {
    init(row: Row) {
        self.init(
            driver: row["driver"], format: row["format"], path: row["path"],
            isOwned: row["isOwned"], fingerprint: row["fingerprint"],
            isDirect: row["isDirect"])
    }
}

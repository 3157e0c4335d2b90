import GRDB

/// What is being done to an image of a volume, so that a crash in the midst of it is understood.
package enum NodeChange: String, Sendable {
    /// It may be found to be in the chain no more.
    case leaving
    /// A job writes it though it is not the top, or changes what it names as its backing.
    case written
}

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
    /// What is being done to it; nil for nothing.
    package var change: NodeChange?

    package init(
        driver: String = "file", format: String, path: String, isOwned: Bool,
        fingerprint: String? = nil, isDirect: Bool = false, change: NodeChange? = nil
    ) {
        self.driver = driver
        self.format = format
        self.path = path
        self.isOwned = isOwned
        self.fingerprint = fingerprint
        self.isDirect = isDirect
        self.change = change
    }
}

extension NodeRecord: CatalogRow {
    init(row: Row) {
        self.init(
            driver: row["driver"], format: row["format"], path: row["path"],
            isOwned: row["isOwned"], fingerprint: row["fingerprint"],
            isDirect: row["isDirect"],
            change: (row["change"] as String?).flatMap(NodeChange.init))
    }
}

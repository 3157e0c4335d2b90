import GRDB

/// A file that is to be removed if a crash keeps the agent from doing so.
///
/// It is recorded before the file is made, or in the transaction after which nothing needs it any
/// more, and forgotten when the file is where it belongs or gone.
package struct LeftoverRecord: Hashable, Sendable {
    /// The file's path: a name that nothing else uses.
    package var path: String
    /// The second name that the file gets when it is complete; it goes with the first unless a
    /// volume uses it by then.
    package var finalPath: String?
    /// What tells the file at `path` from another that took its name; nil if the name is enough.
    package var fileIdentity: String?

    package init(path: String, finalPath: String? = nil, fileIdentity: String? = nil) {
        self.path = path
        self.finalPath = finalPath
        self.fileIdentity = fileIdentity
    }
}

extension LeftoverRecord: CatalogRow {
    init(row: Row) {
        self.init(
            path: row["path"], finalPath: row["finalPath"], fileIdentity: row["fileIdentity"])
    }
}

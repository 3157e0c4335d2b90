package import BlockCore

/// Why the catalog could not do something: a kind that callers branch on, and the remedy.
package struct CatalogError: Error, Sendable, Equatable {
    package enum Kind: String, Sendable {
        /// Somebody else is using what this needs; trying again later may work.
        case busy
        /// Another agent holds the state directory.
        case locked
        /// The file is damaged, or is not a catalog.
        case corrupt
        /// The file system is full.
        case full
        /// There is no such row.
        case notFound
        /// There is one already.
        case duplicate
        case other
    }

    package var kind: Kind
    /// What was being done, as a verb phrase: "insert the volume a".
    package var operation: String
    /// The catalog's file or the state directory.
    package var place: String
    /// What is wrong and, where there is one, the remedy.
    package var detail: String

    package init(_ kind: Kind, _ operation: String, on place: String, detail: String) {
        self.kind = kind
        self.operation = operation
        self.place = place
        self.detail = detail
    }

    /// The error of a file operation on the catalog or its directory.
    package init(_ error: BlockError, _ operation: String) {
        let kind: Kind =
            switch error.kind {
            case .noSpace: .full
            case .busy: .busy
            case .corrupt: .corrupt
            case .notFound: .notFound
            default: .other
            }
        self.init(kind, operation, on: error.place, detail: error.description)
    }

    /// A damaged catalog. It is never recreated silently: what it held must not be forgotten
    /// without somebody's knowledge.
    static func corrupt(_ operation: String, on path: String, detail: String) -> CatalogError {
        CatalogError(
            .corrupt, operation, on: path,
            detail: "\(detail); stop the agent and run `tidemark repo rebuild-catalog LOCATION…`, "
                + "which keeps the damaged file aside and reads the repositories anew")
    }
}

extension CatalogError: CustomStringConvertible {
    package var description: String { "\(place): cannot \(operation): \(detail)" }
}

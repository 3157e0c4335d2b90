// Metadata contexts: what a client can ask the status of ranges in. Names have a namespace:
// `base:allocation` is the protocol's own, `qemu:dirty-bitmap:NAME` is how QEMU offers dirty
// bitmaps, and its tools ask for them by that name.

/// One metadata context.
enum NBDMetaContext: Equatable, Sendable {
    case allocation
    case dirtyBitmap(String)

    private static let allocationName = "base:allocation"
    private static let bitmapPrefix = "qemu:dirty-bitmap:"

    /// The flags of `base:allocation`.
    static let holeFlag: UInt32 = 1
    static let zeroFlag: UInt32 = 2
    /// The flag of `qemu:dirty-bitmap:NAME`.
    static let dirtyFlag: UInt32 = 1

    /// The context's name on the wire.
    var name: String {
        switch self {
        case .allocation: Self.allocationName
        case .dirtyBitmap(let bitmap): Self.bitmapPrefix + bitmap
        }
    }

    /// All contexts of an export with the dirty bitmaps `bitmapNames`.
    static func all(bitmapNames: [String]) -> [NBDMetaContext] {
        [.allocation] + bitmapNames.map { .dirtyBitmap($0) }
    }

    /// Those of `contexts` that `queries` ask for, each once. A query is a context's name; where
    /// contexts are only listed, a namespace stands for all in it, and no query for everything.
    static func matching(
        _ queries: [String], of contexts: [NBDMetaContext], isListing: Bool
    ) -> [NBDMetaContext] {
        if isListing && queries.isEmpty { return contexts }
        return contexts.filter { context in
            let name = context.name
            return queries.contains { query in
                query == name || (isListing && isNamespace(query) && name.hasPrefix(query))
            }
        }
    }

    private static func isNamespace(_ query: String) -> Bool {
        query == "base:" || query == "qemu:" || query == bitmapPrefix
    }
}

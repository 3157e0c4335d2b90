import BlockCore

// Metadata contexts: what a client can ask the status of ranges in. Names have a namespace:
// `base:allocation` is the protocol's own; `qemu:dirty-bitmap:NAME` and `qemu:allocation-depth`
// are how QEMU offers dirty bitmaps and backing chains, and its tools ask for them by these names.

/// One metadata context.
enum NBDMetaContext: Equatable, Sendable {
    case allocation
    /// Which node of the chain holds the content: 1 the top node, 2 the next, and so on; 0 where
    /// no node has storage. What reads as zeroes because the top node says so is 1, not 0: else
    /// a client would look for it further down.
    case allocationDepth
    case dirtyBitmap(String)

    private static let allocationName = "base:allocation"
    private static let allocationDepthName = "qemu:allocation-depth"
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
        case .allocationDepth: Self.allocationDepthName
        case .dirtyBitmap(let bitmap): Self.bitmapPrefix + bitmap
        }
    }

    /// All contexts of an export with the dirty bitmaps `bitmapNames`.
    static func all(bitmapNames: [String]) -> [NBDMetaContext] {
        [.allocation, .allocationDepth] + bitmapNames.map { .dirtyBitmap($0) }
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

    /// The flags by which `base:allocation` describes `extent`.
    static func allocationFlags(_ extent: Extent) -> UInt32 {
        (extent.isHole ? holeFlag : 0) | (extent.isZero ? zeroFlag : 0)
    }

    /// The number by which `qemu:allocation-depth` describes `extent` of a chain of `nodeCount`.
    static func depth(_ extent: Extent, nodeCount: Int) -> UInt32 {
        // Below the base there is nothing that a hole in it could show.
        extent.isHole && extent.depth == nodeCount - 1 ? 0 : UInt32(extent.depth + 1)
    }
}

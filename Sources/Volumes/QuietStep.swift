import Bitmaps
package import BlockCore
import Catalog
import Synchronization

/// One of the things that happen together at a quiet instant: to the bitmaps of a volume, to its
/// images, or to what its writes have to do. See `QuietTransaction` for what is called when.
package struct QuietStep: Sendable {
    /// Called with all volumes held; has until then. Returns the images that the volume is to have,
    /// which read as it does and are durable; nil if it keeps those that it has.
    package typealias Settle =
        @Sendable (ContinuousClock.Instant) async throws(BlockError) -> ImageChain?

    /// What new images are for, which nobody else may be changing at the same time.
    struct NewImages: Sendable {
        var use: String
        /// Whether the new top was made by the agent, and goes with its volume.
        var ownsTop: Bool
    }

    package let volume: Volume
    /// What it does, for messages.
    let operation: String
    /// Nil if the images stay.
    var newImages: NewImages?
    /// Nil if there is nothing to be copied or flushed first.
    var settle: Settle?
    /// In the transaction of the catalog, after what the steps before have done: changes the tables
    /// and the catalog, or throws a `BlockError` or a `CatalogError`, which has nothing happen. What
    /// the tables refer to may be in use: it is replaced, not changed.
    var change: @Sendable (inout QuietTables, CatalogTransaction) throws -> Void
    /// After the commit, with the volume held and its new table in place.
    var follow: @Sendable (BitmapTable) -> FrozenVolume?
    /// The rule that a debug build can break here.
    var mutant: Mutant?
    /// Whether it is the start of a backup.
    package private(set) var isFreeze = false

    init(
        _ operation: String, of volume: Volume, newImages: NewImages? = nil,
        settle: Settle? = nil,
        change: @escaping @Sendable (inout QuietTables, CatalogTransaction) throws -> Void =
            { (_, _) in },
        follow: @escaping @Sendable (BitmapTable) -> FrozenVolume? = { _ in nil }
    ) {
        self.volume = volume
        self.operation = operation
        self.newImages = newImages
        self.settle = settle
        self.change = change
        self.follow = follow
    }
}

extension QuietStep {
    /// A change of a bitmap, as users ask for it.
    package static func change(_ volume: Volume, _ change: BitmapChange) -> QuietStep {
        var step = QuietStep(
            change.operation, of: volume,
            change: { (tables, transaction) in
                let before = tables
                try change.apply(to: &tables[volume], of: volume, in: transaction) {
                    (source, lengthBytes) throws(BlockError) in
                    try source.volume.mergeableBits(
                        of: source.name, lengthBytes: lengthBytes,
                        in: before.table(of: source.volume))
                }
            })
        step.mutant = change.mutant
        return step
    }

    /// The start of a backup; at most one for a volume.
    package static func freeze(_ request: FreezeRequest) -> QuietStep {
        var step = QuietStep(
            "freeze the bitmaps", of: request.volume,
            change: { (tables, transaction) in
                var table = tables[request.volume]
                try request.checkBitmap(in: table)
                let successor = try DirtyBitmap(
                    lengthBytes: request.volume.lengthBytes,
                    granularityBytes: request.granularityBytes)
                try table.freeze(request, successorBits: successor, in: transaction)
                tables[request.volume] = table
            },
            follow: { request.install($0) })
        step.isFreeze = true
        return step
    }

    /// Has the transaction fail with that error, if it has come so far.
    package static func refuse(_ volume: Volume, _ error: BlockError) -> QuietStep {
        QuietStep(error.operation, of: volume, change: { (_, _) in throw error })
    }
}

/// The bitmaps of the volumes of a transaction, as its steps make them.
struct QuietTables {
    private var tables: [Int64: BitmapTable] = [:]

    /// The tables as memory has them.
    init(of volumes: [Volume]) {
        for volume in volumes { tables[volume.id] = volume.bitmaps.withLock { $0 } }
    }

    /// The table of a volume of the transaction.
    subscript(volume: Volume) -> BitmapTable {
        get {
            guard let table = tables[volume.id] else {
                preconditionFailure("volume \(volume.name) is not held")
            }
            return table
        }
        set { tables[volume.id] = newValue }
    }

    /// The table of a volume that may be another's.
    func table(of volume: Volume) -> BitmapTable? { tables[volume.id] }

    /// What has changed and the catalog does not know.
    func takeDirtyChunks() -> [TakenChunks] { tables.values.flatMap { $0.takeDirtyChunks() } }
}

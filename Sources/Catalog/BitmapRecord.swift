import GRDB

/// A dirty bitmap of a volume, without its bits.
///
/// While a backup runs there are two: the frozen one (`pending` is set) keeps the bits that the
/// backup reads, and its nameless successor records what the guest writes meanwhile.
package struct BitmapRecord: Hashable, Sendable {
    /// The row's number, never used again for another; 0 before it is inserted.
    package var id: Int64
    package var volumeID: Int64
    /// Unique for the volume. Nil for a successor.
    package var name: String?
    package var granularityBytes: UInt64
    /// Whether writes are marked in it. A frozen bitmap keeps the answer that it had; its
    /// successor records in its place.
    package var isRecording: Bool
    /// Why the bits cannot be trusted; nil if they can.
    package var inconsistency: String?
    /// The frozen bitmap that this one is the successor of.
    package var successorOf: Int64?
    /// The point that a backup is making from this bitmap, which is frozen until that is settled.
    package var pending: PointReference?
    /// The point since which the bits tell what changed.
    package var continues: PointReference?

    /// Whether the only thing left to do with it is to remove it.
    package var isInconsistent: Bool { inconsistency != nil }
    /// Whether a backup is reading it.
    package var isFrozen: Bool { pending != nil }

    package init(
        id: Int64 = 0, volumeID: Int64, name: String?, granularityBytes: UInt64,
        isRecording: Bool = true, inconsistency: String? = nil, successorOf: Int64? = nil,
        pending: PointReference? = nil, continues: PointReference? = nil
    ) {
        self.id = id
        self.volumeID = volumeID
        self.name = name
        self.granularityBytes = granularityBytes
        self.isRecording = isRecording
        self.inconsistency = inconsistency
        self.successorOf = successorOf
        self.pending = pending
        self.continues = continues
    }
}

extension BitmapRecord: CatalogRow {
    init(row: Row) {
        self.init(
            id: row["id"], volumeID: row["volumeID"], name: row["name"],
            granularityBytes: row["granularityBytes"], isRecording: row["isRecording"],
            inconsistency: row["inconsistency"], successorOf: row["successorOf"],
            pending: PointReference(row: row, prefix: "pending"),
            continues: PointReference(row: row, prefix: "continues"))
    }
}

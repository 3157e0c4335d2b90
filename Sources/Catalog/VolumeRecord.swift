package import Foundation
import GRDB

/// A disk that the agent serves by name.
package struct VolumeRecord: Hashable, Sendable {
    /// The row's number, never used again for another; 0 before it is inserted.
    package var id: Int64
    package var uuid: UUID
    package var name: String
    package var lengthBytes: UInt64
    package var createdAt: Date
    /// Whether the bitmaps in the catalog are exact: set at a clean close, cleared at open before
    /// the first write. Otherwise the regions of the activity log count as dirty too.
    package var isCleanlyClosed: Bool
    /// The bytes that one region of the activity log covers; fixed, as the log stores numbers.
    package var regionBytes: UInt64
    /// The last time at which the volume is known to have been open; nil if it never was.
    package var heartbeatAt: Date?
    /// The uuid of the volume from whose points this one was restored, while that had its own here.
    package var lineageUUID: UUID?

    /// What the points of the volume bear as their volume's uuid.
    package var pointUUID: UUID { lineageUUID ?? uuid }
    /// What the announcement of a region has to survive.
    package var durability: Durability
    /// In which time between two starts of the host it was last opened; nil if it never was.
    package var bootID: String?
    package var backingMode: BackingMode

    package init(
        id: Int64 = 0, uuid: UUID = UUID(), name: String, lengthBytes: UInt64,
        createdAt: Date = Date(), isCleanlyClosed: Bool = true, regionBytes: UInt64,
        heartbeatAt: Date? = nil, lineageUUID: UUID? = nil, durability: Durability = .power,
        bootID: String? = nil, backingMode: BackingMode = .cow
    ) {
        self.id = id
        self.uuid = uuid
        self.name = name
        self.lengthBytes = lengthBytes
        self.createdAt = createdAt
        self.isCleanlyClosed = isCleanlyClosed
        self.regionBytes = regionBytes
        self.heartbeatAt = heartbeatAt
        self.lineageUUID = lineageUUID
        self.durability = durability
        self.bootID = bootID
        self.backingMode = backingMode
    }
}

extension VolumeRecord: CatalogRow {
    init(row: Row) throws(CatalogError) {
        self.init(
            id: row["id"], uuid: try row.uuid("uuid"), name: row["name"],
            lengthBytes: row["lengthBytes"], createdAt: row.date("createdAt"),
            isCleanlyClosed: row["isCleanlyClosed"], regionBytes: row["regionBytes"],
            heartbeatAt: row.dateIfPresent("heartbeatAt"),
            lineageUUID: (row["lineageUUID"] as String?).flatMap(UUID.init(uuidString:)),
            // The columns are checked to hold one of the cases.
            durability: Durability(rawValue: row["durability"]) ?? .process,
            bootID: row["bootID"],
            backingMode: BackingMode(rawValue: row["backingMode"]) ?? .cow)
    }
}

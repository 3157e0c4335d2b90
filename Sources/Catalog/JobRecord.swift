package import Foundation
import GRDB

/// One run of a block job, for the history.
package struct JobRecord: Hashable, Sendable {
    /// The job's id. A client may use one again, so it identifies a run only together with
    /// `startedAt`.
    package var id: String
    /// "backup", "restore" and so on.
    package var type: String
    /// The state in which it was last seen, in QEMU's words.
    package var state: String
    package var startedAt: Date
    package var endedAt: Date?
    package var error: String?
    /// JSON text for whoever wrote it.
    package var detail: String

    package init(
        id: String, type: String, state: String, startedAt: Date, endedAt: Date? = nil,
        error: String? = nil, detail: String = "{}"
    ) {
        self.id = id
        self.type = type
        self.state = state
        self.startedAt = startedAt
        self.endedAt = endedAt
        self.error = error
        self.detail = detail
    }
}

extension JobRecord: CatalogRow {
    init(row: Row) {
        self.init(
            id: row["id"], type: row["type"], state: row["state"],
            startedAt: row.date("startedAt"), endedAt: row.dateIfPresent("endedAt"),
            error: row["error"], detail: row["detail"])
    }
}

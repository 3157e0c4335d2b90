import Foundation
import GRDB

// How values are stored: times as whole microseconds since 1970, UUIDs as text in upper case,
// unsigned numbers as integers from 0 to 2^63 − 1. Columns are declared STRICT and checked, and
// `integrity_check` at open verifies both, so that a plain column cannot fail to decode later.

/// A record that is read from a row.
protocol CatalogRow {
    init(row: Row) throws(CatalogError)
}

extension Row {
    func uuid(_ column: String) throws(CatalogError) -> UUID {
        let text: String = self[column]
        guard let uuid = UUID(uuidString: text) else {
            throw .corrupt("read a row", on: "catalog", detail: "\(column) is no UUID: \(text)")
        }
        return uuid
    }

    func date(_ column: String) -> Date { Date(microseconds: self[column]) }

    func dateIfPresent(_ column: String) -> Date? {
        (self[column] as Int64?).map(Date.init(microseconds:))
    }
}

extension Date {
    init(microseconds: Int64) {
        self.init(timeIntervalSince1970: Double(microseconds) / 1_000_000)
    }

    /// Whole microseconds since 1970; times out of all reason are cut.
    var microseconds: Int64 {
        let exact = (timeIntervalSince1970 * 1_000_000).rounded()
        return Int64(exactly: exact) ?? (exact < 0 ? .min : .max)
    }
}

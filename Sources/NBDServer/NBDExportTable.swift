package import BlockCore
import Synchronization

// Removal has two steps: the name goes from the table, so that nobody new finds it, then the
// export's set of connections is sealed, so that a client which had found it before cannot join
// any more, and the set's members are drained. `removeExport` returns when nothing uses the export.

/// The exports of one or more servers by name; changed while they run.
package final class NBDExportTable: Sendable {
    /// An export and the connections that use it.
    final class Entry: Sendable {
        let export: any NBDExport
        let connections = NBDConnectionSet()

        init(_ export: any NBDExport) {
            self.export = export
        }
    }

    private let entries = Mutex<[String: Entry]>([:])

    package init() {}

    /// Offers `export` to new clients. Throws `busy` if its name is taken.
    package func addExport(_ export: any NBDExport) throws(BlockError) {
        let name = export.name
        guard name.utf8.count <= NBDSize.stringBytesMax else {
            throw BlockError(
                .invalid, "export", on: String(name.prefix(64)),
                detail: "an export's name has at most \(NBDSize.stringBytesMax) bytes")
        }
        try entries.withLock { (entries) throws(BlockError) in
            guard entries[name] == nil else {
                throw BlockError(
                    .busy, "export", on: name, detail: "there is an export of that name")
            }
            entries[name] = Entry(export)
        }
    }

    /// Takes an export away and waits until no client uses it. Its clients' requests in flight
    /// get `drainSeconds` to finish and be answered; then their sockets are cut. Returns false if
    /// there is no such export.
    @discardableResult
    package func removeExport(
        _ name: String, drainSeconds: Int = NBDLimits().drainSeconds
    ) async -> Bool {
        guard let entry = entries.withLock({ $0.removeValue(forKey: name) }) else { return false }
        entry.connections.seal()
        if await !entry.connections.waitUntilEmpty(upTo: .seconds(drainSeconds)) {
            entry.connections.cut()
            _ = await entry.connections.waitUntilEmpty(upTo: nil)
        }
        return true
    }

    /// Takes an export away if no client uses it. Returns nil if there is no such export, else the
    /// number of clients that keep it, which is zero if it is gone.
    package func removeUnusedExport(_ name: String) -> Int? {
        entries.withLock { entries in
            guard let entry = entries[name] else { return nil }
            let count = entry.connections.sealIfEmpty()
            if count == 0 { entries[name] = nil }
            return count
        }
    }

    /// The number of clients that use the export; nil if there is no such export.
    package func connectionCount(of name: String) -> Int? {
        entries.withLock { $0[name] }?.connections.count
    }

    /// The export that a client asks for. The empty name stands for the only one there is.
    func find(_ name: String) -> Entry? {
        entries.withLock { entries in
            if let entry = entries[name] { return entry }
            return name.isEmpty && entries.count == 1 ? entries.values.first : nil
        }
    }

    /// All exports, in order of name.
    package func all() -> [any NBDExport] {
        entries.withLock { entries in
            entries.values.map(\.export).sorted { $0.name < $1.name }
        }
    }
}

import BlockCore
import NBDServer

/// An export that the control socket knows by an id.
protocol AgentExport: NBDExport {
    var id: String { get }

    /// The volume's name, or the point's id.
    var nodeName: String { get }

    /// Whether it shows a restore point.
    var isPoint: Bool { get }

    /// How many clients use it.
    var connectionCount: Int { get }

    /// The export is gone, and nothing of a client is left in the device.
    func wasRemoved() async
}

/// What the NBD server offers: every volume under its own name, and what was added besides, which
/// lasts until it is removed or the agent ends.
actor ExportStore {
    /// What became of an attempt to remove an export.
    enum Removal: Equatable {
        case removed
        case absent
        /// So many clients keep it.
        case inUse(Int)
    }

    /// The server's side of it.
    nonisolated let table = NBDExportTable()
    private var exports: [any AgentExport] = []
    private var leaving: Set<String> = []

    /// All exports, in order of name.
    func all() -> [any AgentExport] { exports.sorted { $0.name < $1.name } }

    /// Those that show this volume.
    func exports(ofVolume name: String) -> [any AgentExport] {
        all().filter { !$0.isPoint && $0.nodeName == name }
    }

    /// The export of this id.
    func export(_ id: String) -> (any AgentExport)? { exports.first { $0.id == id } }

    /// Whether an export is being removed and has clients whose requests are still in the device.
    func isLeaving(_ id: String) -> Bool { leaving.contains(id) }

    /// Offers `export`. Throws `busy` if its id or its name is taken.
    func add(_ export: any AgentExport) throws(BlockError) {
        guard self.export(export.id) == nil else {
            throw BlockError(
                .busy, "export", on: export.id, detail: "there is an export of that id")
        }
        try table.addExport(export)
        exports.append(export)
    }

    /// Takes an export away: with `isHard` cuts its clients off, else only if there are none.
    func remove(_ id: String, isHard: Bool) async -> Removal {
        guard let export = export(id), !leaving.contains(id) else { return .absent }
        leaving.insert(id)
        defer { leaving.remove(id) }
        if isHard {
            await table.removeExport(export.name, drainSeconds: 0)
        } else if let clients = table.removeUnusedExport(export.name), clients > 0 {
            return .inUse(clients)
        }
        await export.wasRemoved()
        exports.removeAll { $0.id == id }
        return .removed
    }
}

import TestSupport

/// The names in a recorded folder: what they mean now, and which changes a power loss may undo.
struct NameHistory {
    enum Entry {
        case directory
        /// An index among the files of the history.
        case file(Int)
    }

    private struct Change {
        /// What the names mean from then on; nil for nothing.
        let entries: [(path: String, entry: Entry?)]
        var isDurable: Bool
    }

    /// What the names mean to running programs.
    private var current: [String: Entry] = [:]
    private var changes: [Change] = []

    mutating func addDurably(_ path: String, _ entry: Entry) {
        add([(path, entry)], isDurable: true)
    }

    mutating func change(_ path: String, to entry: Entry?) { add([(path, entry)]) }

    mutating func rename(_ path: String, to newPath: String) {
        guard case .file = current[path] else {
            preconditionFailure("\(path) is renamed, which is no file that is known")
        }
        add([(path, nil), (newPath, current[path])])
    }

    mutating func link(_ path: String, to newPath: String) {
        guard let entry = current[path] else { preconditionFailure("\(path) is not known") }
        add([(newPath, entry)])
    }

    /// All changes in that directory are durable from now on.
    mutating func sync(_ directory: String) {
        for index in changes.indices where !changes[index].isDurable {
            changes[index].isDurable = changes[index].entries.allSatisfy {
                Self.parent(of: $0.path) == directory
            }
        }
    }

    /// What the names mean after a crash.
    func outcome(isPowerLoss: Bool, _ random: inout SplitMix64) -> [String: Entry] {
        guard isPowerLoss else { return current }
        let style = LossStyle(&random)
        let pendingCount = changes.count { !$0.isDurable }
        var keep = style.keeper(of: pendingCount, &random)
        var names: [String: Entry] = [:]
        for change in changes where change.isDurable || keep.next(&random) {
            for (path, entry) in change.entries { names[path] = entry }
        }
        return names
    }

    static func parent(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[..<$0]) } ?? ""
    }

    private mutating func add(_ entries: [(String, Entry?)], isDurable: Bool = false) {
        for (path, entry) in entries { current[path] = entry }
        changes.append(Change(entries: entries, isDurable: isDurable))
    }
}

/// How much of what was not synced a power loss keeps.
enum LossStyle {
    case nothing
    case everything
    /// What came first, up to somewhere.
    case beginning
    /// Each with the same chance.
    case some
    /// As `some`, and what is kept may be torn at multiples of so many bytes.
    case torn(sectorBytes: Int)

    init(_ random: inout SplitMix64) {
        switch Int.random(in: 0..<6, using: &random) {
        case 0: self = .nothing
        case 1: self = .everything
        case 2: self = .beginning
        case 3: self = .some
        case 4: self = .torn(sectorBytes: 512)
        default: self = .torn(sectorBytes: 4096)
        }
    }

    /// Decides on `count` operations one after the other.
    func keeper(of count: Int, _ random: inout SplitMix64) -> Keeper {
        switch self {
        case .nothing: Keeper(chance: 0, count: .max)
        case .everything: Keeper(chance: 8, count: .max)
        case .beginning: Keeper(chance: 8, count: Int.random(in: 0...count, using: &random))
        case .some, .torn: Keeper(chance: Int.random(in: 1...7, using: &random), count: .max)
        }
    }

    struct Keeper {
        /// Out of eight.
        let chance: Int
        /// How many may be kept at all.
        var count: Int

        mutating func next(_ random: inout SplitMix64) -> Bool {
            guard count > 0 else { return false }
            count -= 1
            return Int.random(in: 0..<8, using: &random) < chance
        }
    }
}

import BlockCore

/// What an L2 cache holds, behind its lock: the L1 table, and the L2 tables that fit.
struct L2CacheState {
    /// Loads of one table that are under way, and the changes to it since the first began.
    struct Load {
        var loaders = 0
        var changes = 0
    }

    var l1: [UInt64]
    var l1Offset: UInt64
    /// How many tables are kept whatever the rest of the agent needs.
    static let residentLeast = 4

    let residentMax: Int
    private let tableBytes: UInt64
    private let budget: MemoryBudget
    /// The memory taken for tables beyond the least.
    private var takenBytes: UInt64 = 0
    /// By L1 index, as words; empty where not in memory.
    private(set) var resident: [Int] = []
    var tables: [[UInt64]]
    /// Whether no entry of the table has a flaw.
    private(set) var isSound: [Bool]
    var wasUsed: [Bool]
    private var clockHand = 0
    var loads: [Int: Load] = [:]
    var epoch = 0
    var space: HostSpace

    init(
        l1: [UInt64], l1Offset: UInt64, residentMax: Int, tableBytes: UInt64, space: HostSpace,
        budget: MemoryBudget
    ) {
        self.l1 = l1
        self.l1Offset = l1Offset
        self.residentMax = residentMax
        self.tableBytes = tableBytes
        self.budget = budget
        self.space = space
        tables = Array(repeating: [], count: l1.count)
        isSound = Array(repeating: true, count: l1.count)
        wasUsed = Array(repeating: false, count: l1.count)
    }

    /// Makes room for `count` L1 entries.
    mutating func grow(to count: Int) {
        guard count > tables.count else { return }
        let more = count - tables.count
        tables += Array(repeating: [], count: more)
        isSound += Array(repeating: true, count: more)
        wasUsed += Array(repeating: false, count: more)
    }

    /// Puts the table of `l1Index` into memory, if need be in the place of another.
    mutating func insert(_ l1Index: Int, _ words: [UInt64], isSound sound: Bool) {
        if tables[l1Index].isEmpty {
            if hasRoom() {
                resident.append(l1Index)
            } else {
                evictOne(for: l1Index)
            }
        }
        tables[l1Index] = words
        isSound[l1Index] = sound
        wasUsed[l1Index] = true
    }

    /// Drops the table of `l1Index`, and has those that are reading it read it again.
    mutating func forget(_ l1Index: Int) {
        loads[l1Index]?.changes += 1
        tables[l1Index] = []
        resident.removeAll { $0 == l1Index }
        giveBack()
    }

    /// Drops every table: the image is closed.
    mutating func forgetAll() {
        for l1Index in resident { tables[l1Index] = [] }
        resident = []
        giveBack()
    }

    /// Whether one table more may be kept; its memory is taken then.
    private mutating func hasRoom() -> Bool {
        guard resident.count >= Self.residentLeast else { return true }
        guard resident.count < residentMax, budget.tryTake(tableBytes, for: .caches) else {
            return false
        }
        takenBytes += tableBytes
        return true
    }

    private mutating func giveBack() {
        let neededBytes = UInt64(max(0, resident.count - Self.residentLeast)) * tableBytes
        guard takenBytes > neededBytes else { return }
        budget.give(takenBytes - neededBytes, for: .caches)
        takenBytes = neededBytes
    }

    /// Gives the place of a table that was not used for a round of the clock to `l1Index`.
    private mutating func evictOne(for l1Index: Int) {
        while true {
            clockHand = (clockHand + 1) % resident.count
            let candidate = resident[clockHand]
            if wasUsed[candidate] && !tables[candidate].isEmpty {
                wasUsed[candidate] = false
            } else {
                tables[candidate] = []
                resident[clockHand] = l1Index
                return
            }
        }
    }
}

import BlockCore
import Synchronization

// The L1 table and the L2 tables in use, in memory; what a request asks first.
//
// The cache never holds what the file does not: changes are written to the file first and applied
// here after, so a table can be dropped at any time. A table that is being read from the file while
// an entry of it changes is read again.
//
// A lookup hands out host offsets, which stay good until the caller says `end`: clusters that are
// freed meanwhile must not be given to other data before. So lookups are counted, in one of two
// epochs. Whoever frees clusters starts a new epoch and waits until the old one has drained.

/// The guest-to-host mapping of one image.
final class L2Cache: Sendable {
    /// The epoch of a lookup whose host offsets are in use.
    struct Use: Sendable {
        fileprivate let epoch: Int
    }

    /// Loads of one table that are under way, and the changes to it since the first began.
    private struct Load {
        var loaders = 0
        var changes = 0
    }

    private struct State {
        var l1: [UInt64]
        /// By L1 index; empty where not in memory.
        var tables: [[UInt64]]
        var wasUsed: [Bool]
        var resident: [Int] = []
        var clockHand = 0
        var loads: [Int: Load] = [:]
        var epoch = 0
        var hostEndBytes: UInt64
    }

    let geometry: Qcow2Geometry
    let decoder: EntryDecoder
    private let file: any StorageFile
    private let l1Offset: UInt64
    private let residentMax: Int
    private let state: HostMutex<State>
    private let usesOfEpoch0 = Atomic(0)
    private let usesOfEpoch1 = Atomic(0)

    /// Reads the L1 table. `cacheBytes` bounds the memory for L2 tables.
    init(file: any StorageFile, header: Qcow2Header, cacheBytes: Int) throws(BlockError) {
        geometry = header.geometry
        decoder = EntryDecoder(path: file.path, geometry: geometry, version: header.version)
        self.file = file
        l1Offset = header.l1Offset
        residentMax = max(4, cacheBytes / Int(geometry.clusterBytes))
        let l1 = try file.readNumbers(Int(header.l1Count), at: header.l1Offset)
        state = HostMutex(
            State(
                l1: l1, tables: Array(repeating: [], count: l1.count),
                wasUsed: Array(repeating: false, count: l1.count),
                hostEndBytes: try file.sizeBytes().alignedUp(to: geometry.clusterBytes)))
    }

    /// Maps as much of `range` from its start as the tables in memory and the room in `runs` allow.
    /// The offsets are good until `end` is called, exactly once.
    func begin(_ range: ByteRange, into runs: inout RunList) throws(BlockError) -> Use {
        try state.withLock { (state) throws(BlockError) in
            var position = range.offset
            while position < range.end, !runs.isFull {
                guard let run = try map(ByteRange(offset: position, end: range.end), &state)
                else { break }
                runs.append(run)
                position += run.lengthBytes
            }
            let epoch = state.epoch
            uses(epoch, add: 1)
            return Use(epoch: epoch)
        }
    }

    /// Says that the host offsets of a lookup are no longer used.
    func end(_ use: Use) { uses(use.epoch, add: -1) }

    /// Starts a new epoch. The one before the present must have drained.
    func startEpoch() -> Use {
        state.withLock { state in
            let old = state.epoch
            state.epoch = 1 - old
            return Use(epoch: old)
        }
    }

    /// Whether no lookup of the epoch is in use any more.
    func hasDrained(_ use: Use) -> Bool { uses(use.epoch, add: 0) == 0 }

    /// The L1 entry that maps `guestOffset`.
    func l1Entry(_ l1Index: Int) -> UInt64 { state.withLock { $0.l1[l1Index] } }

    /// Says up to where the host file may be referred to from now on.
    func setHostEnd(_ bytes: UInt64) { state.withLock { $0.hostEndBytes = bytes } }

    /// `count` L2 entries from the one that maps `guestOffset`, all in one table.
    func entries(from guestOffset: UInt64, count: Int) throws(BlockError) -> [UInt64] {
        let l1Index = geometry.l1Index(of: guestOffset)
        let first = geometry.l2Index(of: guestOffset)
        while true {
            try load(l1Index)
            let entries = state.withLock { state -> [UInt64]? in
                if state.l1[l1Index] == 0 { return Array(repeating: 0, count: count) }
                guard !state.tables[l1Index].isEmpty else { return nil }
                return Array(state.tables[l1Index][first..<first + count])
            }
            if let entries { return entries }
        }
    }

    /// Changes the L2 entries from the one that maps `guestOffset`, in the file and then here. All
    /// are in one table, which must be the image's own, and the caller has their clusters locked.
    func setEntries(_ entries: [UInt64], from guestOffset: UInt64) throws(BlockError) {
        let l1Index = geometry.l1Index(of: guestOffset)
        let first = geometry.l2Index(of: guestOffset)
        let l1Entry = l1Entry(l1Index)
        precondition(l1Entry & Qcow2Layout.copied != 0)
        let table = l1Entry & Qcow2Layout.offsetMask
        do throws(BlockError) {
            try file.writeNumbers(entries, at: table + UInt64(first * 8))
        } catch {
            // How much of it reached the file is unknown: have it read again.
            state.withLock { forget(l1Index, &$0) }
            throw error
        }
        state.withLock { state in
            state.loads[l1Index]?.changes += 1
            guard !state.tables[l1Index].isEmpty else { return }
            for (index, entry) in entries.enumerated() {
                state.tables[l1Index][first + index] = entry
            }
        }
    }

    /// Puts a new table, which is in the file at `host`, in the place of what the L1 entry names.
    func setTable(_ l1Index: Int, host: UInt64, entries: [UInt64]) throws(BlockError) {
        let entry = host | Qcow2Layout.copied
        try file.writeNumbers([entry], at: l1Offset + UInt64(l1Index * 8))
        state.withLock { state in
            state.loads[l1Index]?.changes += 1
            state.l1[l1Index] = entry
            insert(l1Index, entries, &state)
        }
    }

    /// Reads the table of `l1Index` from the file unless it is here or there is none. Blocks.
    func load(_ l1Index: Int) throws(BlockError) {
        while true {
            let start = state.withLock { state -> (table: UInt64, changes: Int)? in
                guard state.l1[l1Index] != 0, state.tables[l1Index].isEmpty else { return nil }
                state.loads[l1Index, default: Load()].loaders += 1
                return (state.l1[l1Index], state.loads[l1Index]!.changes)
            }
            guard let start else { return }
            let loaded: Result<[UInt64], BlockError>
            do throws(BlockError) {
                loaded = .success(try readTable(start.table))
            } catch {
                loaded = .failure(error)
            }
            let isCurrent = state.withLock { state in
                let changes = state.loads[l1Index]!.changes
                state.loads[l1Index]!.loaders -= 1
                if state.loads[l1Index]!.loaders == 0 { state.loads[l1Index] = nil }
                guard changes == start.changes else { return false }
                if case .success(let entries) = loaded { insert(l1Index, entries, &state) }
                return true
            }
            if isCurrent {
                _ = try loaded.get()
                return
            }
        }
    }

    private func readTable(_ l1Entry: UInt64) throws(BlockError) -> [UInt64] {
        let offset = l1Entry & Qcow2Layout.offsetMask
        let end = state.withLock { $0.hostEndBytes }
        guard l1Entry & Qcow2Layout.l1Reserved == 0, offset % geometry.clusterBytes == 0,
            offset != 0, offset < end
        else {
            throw BlockError(
                .corrupt, "map", on: file.path,
                detail: "the L1 entry 0x\(String(l1Entry, radix: 16)) is invalid; "
                    + "run qemu-img check")
        }
        return try file.readNumbers(geometry.l2EntryCount, at: offset)
    }

    /// The run at the start of `range`; nil if its table is not in memory.
    private func map(_ range: ByteRange, _ state: inout State) throws(BlockError) -> MappedRun? {
        let bits = UInt64(geometry.clusterBits)
        let l1Index = geometry.l1Index(of: range.offset)
        let tableEnd = UInt64(l1Index + 1) << UInt64(geometry.l2CoverBits)
        let end = min(range.end, tableEnd)
        if state.l1[l1Index] == 0 {
            return MappedRun(kind: .unallocated, host: 0, lengthBytes: end - range.offset)
        }
        guard !state.tables[l1Index].isEmpty else { return nil }
        state.wasUsed[l1Index] = true

        let first = geometry.l2Index(of: range.offset)
        let inCluster = range.offset & (geometry.clusterBytes - 1)
        let (kind, host) = try decoder.decode(
            state.tables[l1Index][first], hostEndBytes: state.hostEndBytes)
        let clusterStart = range.offset - inCluster
        var count: UInt64 = 1
        while kind != .compressed, clusterStart + count << bits < end {
            let (nextKind, nextHost) = try decoder.decode(
                state.tables[l1Index][first + Int(count)], hostEndBytes: state.hostEndBytes)
            guard nextKind == kind, host == 0 || nextHost == host + count << bits else { break }
            count += 1
        }
        let runEnd = min(clusterStart + count << bits, end)
        return MappedRun(
            kind: kind, host: kind == .compressed || host == 0 ? host : host + inCluster,
            lengthBytes: runEnd - range.offset)
    }

    private func insert(_ l1Index: Int, _ entries: [UInt64], _ state: inout State) {
        if state.tables[l1Index].isEmpty {
            if state.resident.count < residentMax {
                state.resident.append(l1Index)
            } else {
                evictOne(&state, for: l1Index)
            }
        }
        state.tables[l1Index] = entries
        state.wasUsed[l1Index] = true
    }

    /// Gives the place of a table that was not used for a round of the clock to `l1Index`.
    private func evictOne(_ state: inout State, for l1Index: Int) {
        while true {
            state.clockHand = (state.clockHand + 1) % state.resident.count
            let candidate = state.resident[state.clockHand]
            if state.wasUsed[candidate] && !state.tables[candidate].isEmpty {
                state.wasUsed[candidate] = false
            } else {
                state.tables[candidate] = []
                state.resident[state.clockHand] = l1Index
                return
            }
        }
    }

    private func forget(_ l1Index: Int, _ state: inout State) {
        state.loads[l1Index]?.changes += 1
        state.tables[l1Index] = []
        state.resident.removeAll { $0 == l1Index }
    }

    @discardableResult
    private func uses(_ epoch: Int, add difference: Int) -> Int {
        if epoch == 0 {
            return usesOfEpoch0.add(difference, ordering: .sequentiallyConsistent).newValue
        }
        return usesOfEpoch1.add(difference, ordering: .sequentiallyConsistent).newValue
    }
}

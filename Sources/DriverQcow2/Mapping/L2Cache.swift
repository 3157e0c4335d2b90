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
//
// A table is checked when it is read: one without a flaw needs no checks at each lookup. Of one
// with flaws each entry is checked when it is used, so that the sound ones stay readable.

/// The guest-to-host mapping of one image.
final class L2Cache: Sendable {
    /// The epoch of a lookup whose host offsets are in use.
    struct Use: Sendable {
        fileprivate let epoch: Int
    }

    let geometry: Qcow2Geometry
    let decoder: EntryDecoder
    private let file: any StorageFile
    private let damage: Damage
    /// What data must not overlap; nil for an image that is open for reading.
    private let regions: MetadataRegions?
    private let state: HostMutex<L2CacheState>
    private let usesOfEpoch0 = Atomic(0)
    private let usesOfEpoch1 = Atomic(0)

    /// A cache for an image with the L1 table `l1`; `cacheBytes` bounds the memory for L2 tables,
    /// and all but the least of it is taken from `budget`.
    init(
        file: any StorageFile, header: Qcow2Header, l1: [UInt64], regions: MetadataRegions?,
        damage: Damage, cacheBytes: Int, budget: MemoryBudget = .shared
    ) throws(BlockError) {
        geometry = header.geometry
        decoder = EntryDecoder(header)
        self.file = file
        self.damage = damage
        self.regions = regions
        state = HostMutex(
            L2CacheState(
                l1: l1, l1Offset: header.l1Offset,
                residentMax: max(
                    L2CacheState.residentLeast, cacheBytes / Int(header.clusterBytes)),
                tableBytes: header.clusterBytes,
                space: HostSpace(
                    endBytes: try file.sizeBytes().alignedUp(to: header.clusterBytes),
                    lost: ByteRange(offset: 0, lengthBytes: 0)), budget: budget))
    }

    deinit { state.withLock { $0.forgetAll() } }

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

    /// All L1 entries.
    var l1Entries: [UInt64] { state.withLock { $0.l1 } }

    /// Says up to where the host file may be referred to from now on.
    func setHostEnd(_ bytes: UInt64) { state.withLock { $0.space.endBytes = bytes } }

    /// Says what was lost before any table was read.
    func setLost(_ range: ByteRange) {
        state.withLock { $0.space = HostSpace(endBytes: $0.space.endBytes, lost: range) }
    }

    /// Puts a longer L1 table, which is in the file at `offset`, in the place of the present one.
    func replaceL1(_ l1: [UInt64], at offset: UInt64) {
        state.withLock { state in
            state.l1 = l1
            state.l1Offset = offset
            state.grow(to: l1.count)
        }
    }

    /// `count` valid L2 entries from the one that maps `guestOffset`, all in one table. Blocks.
    func entries(from guestOffset: UInt64, count: Int) throws(BlockError) -> [L2Entry] {
        let l1Index = geometry.l1Index(of: guestOffset)
        let first = geometry.l2Index(of: guestOffset)
        while true {
            try load(l1Index)
            let entries = try state.withLock { (state) throws(BlockError) -> [L2Entry]? in
                if state.l1[l1Index] == 0 {
                    return Array(repeating: L2Entry.unallocated, count: count)
                }
                guard !state.tables[l1Index].isEmpty else { return nil }
                var entries: [L2Entry] = []
                entries.reserveCapacity(count)
                for index in first..<first + count {
                    entries.append(try entry(index, of: l1Index, state))
                }
                return entries
            }
            if let entries { return entries }
        }
    }

    /// Changes the L2 entries from the one that maps `guestOffset`, in the file and then here. All
    /// are in one table, which must be the image's own, and the caller has their clusters locked.
    func setEntries(_ entries: [L2Entry], from guestOffset: UInt64) throws(BlockError) {
        let l1Index = geometry.l1Index(of: guestOffset)
        let first = geometry.l2Index(of: guestOffset) * geometry.entryWords
        let l1Entry = l1Entry(l1Index)
        precondition(l1Entry & Qcow2Layout.copied != 0)
        let words = entries.words(entryWords: geometry.entryWords)
        do throws(BlockError) {
            try file.writeNumbers(
                words, at: l1Entry & Qcow2Layout.offsetMask + UInt64(first * 8))
        } catch {
            // How much of it reached the file is unknown: have it read again.
            state.withLock { $0.forget(l1Index) }
            throw error
        }
        state.withLock { state in
            state.loads[l1Index]?.changes += 1
            guard !state.tables[l1Index].isEmpty else { return }
            for (index, word) in words.enumerated() {
                state.tables[l1Index][first + index] = word
            }
        }
    }

    /// Puts a new table, which is in the file at `host` with the content `words`, in the place of
    /// what the L1 entry names.
    func setTable(_ l1Index: Int, host: UInt64, words: [UInt64]) throws(BlockError) {
        let entry = host | Qcow2Layout.copied
        let l1Offset = state.withLock { $0.l1Offset }
        try file.writeNumbers([entry], at: l1Offset + UInt64(l1Index * 8))
        state.withLock { state in
            state.loads[l1Index]?.changes += 1
            state.l1[l1Index] = entry
            state.insert(l1Index, words, isSound: true)
        }
    }

    /// Reads the table of `l1Index` from the file unless it is here or there is none. Blocks.
    func load(_ l1Index: Int) throws(BlockError) {
        while true {
            let start = state.withLock { state -> (table: UInt64, changes: Int)? in
                guard state.l1[l1Index] != 0, state.tables[l1Index].isEmpty else { return nil }
                state.loads[l1Index, default: L2CacheState.Load()].loaders += 1
                return (state.l1[l1Index], state.loads[l1Index]!.changes)
            }
            guard let start else { return }
            let loaded: Result<(words: [UInt64], isSound: Bool), BlockError>
            do throws(BlockError) {
                loaded = .success(try readTable(start.table, l1Index))
            } catch {
                loaded = .failure(error)
            }
            let isCurrent = state.withLock { state in
                let changes = state.loads[l1Index]!.changes
                state.loads[l1Index]!.loaders -= 1
                if state.loads[l1Index]!.loaders == 0 { state.loads[l1Index] = nil }
                guard changes == start.changes else { return false }
                if case .success(let table) = loaded {
                    state.insert(l1Index, table.words, isSound: table.isSound)
                }
                return true
            }
            if isCurrent {
                _ = try loaded.get()
                return
            }
        }
    }

    private func readTable(
        _ l1Entry: UInt64, _ l1Index: Int
    ) throws(BlockError) -> (words: [UInt64], isSound: Bool) {
        let offset = l1Entry & Qcow2Layout.offsetMask
        let space = state.withLock { $0.space }
        guard l1Entry & Qcow2Layout.l1Reserved == 0, offset % geometry.clusterBytes == 0,
            offset != 0,
            space.holds(ByteRange(offset: offset, lengthBytes: geometry.clusterBytes))
        else {
            throw damage.found("map", "the L1 entry 0x\(String(l1Entry, radix: 16)) is invalid")
        }
        if let regions {
            let cluster = ClusterRun(first: offset >> UInt64(geometry.clusterBits), count: 1)
            let kind = regions.firstKind(in: cluster)
            if let kind, kind != .l2Table {
                throw damage.found("map", "the L2 table at \(offset) overlaps the \(kind.name)")
            }
        }
        let words = try file.readNumbers(
            geometry.l2EntryCount * geometry.entryWords, at: offset)
        return (words, isSound(words, of: l1Index, space))
    }

    private func isSound(_ words: [UInt64], of l1Index: Int, _ space: HostSpace) -> Bool {
        for index in 0..<geometry.l2EntryCount {
            let entry = words.l2Entry(index, entryWords: geometry.entryWords)
            if entry != .unallocated && problem(entry, index, of: l1Index, space) != nil {
                return false
            }
        }
        return true
    }

    private func problem(
        _ entry: L2Entry, _ index: Int, of l1Index: Int, _ space: HostSpace
    ) -> String? {
        let guestOffset =
            UInt64(l1Index) << UInt64(geometry.l2CoverBits)
            + UInt64(index) << UInt64(geometry.clusterBits)
        if let problem = decoder.problem(entry, at: guestOffset, in: space) { return problem }
        guard let regions, let run = decoder.storage(of: entry) else { return nil }
        return regions.firstKind(in: run).map { "overlaps the \($0.name)" }
    }

    @inline(__always)
    private func entry(
        _ index: Int, of l1Index: Int, _ state: borrowing L2CacheState
    ) throws(BlockError) -> L2Entry {
        let entry = state.tables[l1Index].l2Entry(index, entryWords: geometry.entryWords)
        if !state.isSound[l1Index],
            let problem = problem(entry, index, of: l1Index, state.space)
        {
            throw damage.found(
                "map", "the L2 entry 0x\(String(entry.word, radix: 16)) \(problem)")
        }
        return entry
    }

    /// The run at the start of `range`; nil if its table is not in memory.
    private func map(
        _ range: ByteRange, _ state: inout L2CacheState
    ) throws(BlockError) -> MappedRun? {
        let l1Index = geometry.l1Index(of: range.offset)
        let end = min(range.end, UInt64(l1Index + 1) << UInt64(geometry.l2CoverBits))
        if state.l1[l1Index] == 0 {
            return MappedRun(kind: .unallocated, host: 0, lengthBytes: end - range.offset)
        }
        guard !state.tables[l1Index].isEmpty else { return nil }
        state.wasUsed[l1Index] = true

        var index = geometry.l2Index(of: range.offset)
        var unit = geometry.unitIndex(of: range.offset)
        var entry = try entry(index, of: l1Index, state)
        let (kind, host) = decoder.decode(entry, unit: unit)
        let inCluster = range.offset & (geometry.clusterBytes - 1)
        if kind == .compressed {
            let clusterEnd = range.offset - inCluster + geometry.clusterBytes
            return MappedRun(
                kind: kind, host: host, lengthBytes: min(clusterEnd, end) - range.offset)
        }
        // Each unit begins at `position`; data goes on where the cluster is `clusterHost`.
        var position = range.offset.alignedDown(to: geometry.unitBytes) + geometry.unitBytes
        var clusterHost = host
        while position < end {
            unit += 1
            if unit == geometry.unitsPerCluster {
                unit = 0
                index += 1
                entry = try self.entry(index, of: l1Index, state)
                if kind == .data || kind == .sharedData { clusterHost += geometry.clusterBytes }
            }
            guard decoder.decode(entry, unit: unit) == (kind, clusterHost) else { break }
            position += geometry.unitBytes
        }
        return MappedRun(
            kind: kind, host: host + inCluster, lengthBytes: min(position, end) - range.offset)
    }

    @discardableResult
    private func uses(_ epoch: Int, add difference: Int) -> Int {
        if epoch == 0 {
            return usesOfEpoch0.add(difference, ordering: .sequentiallyConsistent).newValue
        }
        return usesOfEpoch1.add(difference, ordering: .sequentiallyConsistent).newValue
    }
}

import BlockCore

// Hands out host clusters and takes them back, so that neither a killed process nor a power loss
// ever leaves a cluster in use twice.
//
// *Out*: clusters come from a reserve. Before they enter it their refcounts are durably one and
// they durably read as zeroes. So a mapping may refer to them at any moment, an unused remainder
// is merely leaked, and a new L2 table needs no writing: its cluster is an empty table already.
//
// *Back*: what a mapping no longer refers to is collected. The next flush makes the changed mapping
// durable; only then, and only if no request still uses the old mapping, the refcounts are lowered
// and the storage is given back to the file system.
//
// Refcounts change only with `turn` held. `turn` is the last lock taken.

/// The free and the freed clusters of an image that is open for writing.
final class ClusterAllocator: Sendable {
    private struct State {
        /// Clusters that are ready for use, oldest first.
        var reserve: [ClusterRun] = []
        var reservedCount: UInt64 = 0
        /// How many clusters the last batch for the reserve had, or the first one will have.
        var batchCount: UInt64
        /// No cluster below this has a refcount of zero.
        var searchFrom: UInt64 = 0
        /// Freed since the last flush began.
        var freed: [ClusterRun] = []
        /// Freed before: their mapping is durably gone once a flush that began since succeeds.
        var draining: [ClusterRun] = []
        /// The lookups that may have seen that mapping.
        var drainingUse: L2Cache.Use?
        /// Counts the times that `draining` was filled.
        var drainings: UInt64 = 0
        var refill: Task<Void, Never>?
        /// The end when it was last closed, or opened.
        var cleanEnd: UInt64
    }

    /// More runs of freed clusters than this, and a flush is due.
    static let freedRunsMax = 4096

    private let file: any StorageFile
    private let refcounts: Refcounts
    private let cache: L2Cache
    private let regions: MetadataRegions
    private let damage: Damage
    /// Of the external data file, if there is one: what refers to data comes after the data.
    private let dataFlushes: SharedFlush?
    private let flushes: SharedFlush
    private let pool: IOPool
    private let geometry: Qcow2Geometry
    private let batchCountMax: UInt64
    /// Never cut below: refcounts that were wrong from the start must not cost data.
    private let endAtOpen: UInt64
    private let turn = AsyncLock()
    private let state: HostMutex<State>

    init(
        file: any StorageFile, dataFile: (any StorageFile)?, refcounts: Refcounts,
        cache: L2Cache, regions: MetadataRegions, damage: Damage, pool: IOPool
    ) {
        self.file = file
        self.refcounts = refcounts
        self.cache = cache
        self.regions = regions
        self.damage = damage
        self.pool = pool
        dataFlushes = dataFile.map { SharedFlush(file: $0, pool: pool) }
        flushes = SharedFlush(file: file, pool: pool)
        geometry = refcounts.geometry
        let batchBytes = min(max(geometry.clusterBytes * 512, 16 << 20), 64 << 20)
        let tables = geometry.l1Count + 4
        let neededMax = dataFile == nil ? geometry.clusterCount + tables : min(tables, 64)
        batchCountMax = min(max(batchBytes, 256 << 20) / geometry.clusterBytes, neededMax)
        endAtOpen = refcounts.endCluster
        state = HostMutex(
            State(
                batchCount: min(batchBytes / geometry.clusterBytes, neededMax),
                cleanEnd: refcounts.endCluster))
        cache.setLost(geometry.bytes(of: refcounts.lost))
    }

    /// Up to `count` consecutive clusters, at least one, that durably read as zeroes and count as
    /// used. They are leaked unless a mapping refers to them or `free` gets them back.
    func take(upTo count: UInt64) async throws(BlockError) -> ClusterRun {
        while true {
            if let run = takeReserved(upTo: count) { return run }
            try await turn.withLock { () async throws(BlockError) in
                if state.withLock({ $0.reservedCount }) == 0 { try await refill() }
            }
        }
    }

    /// Exactly `count` consecutive clusters like those of `take`.
    func takeConsecutive(_ count: UInt64) async throws(BlockError) -> ClusterRun {
        try await turn.withLock { () async throws(BlockError) in
            let run = try await pool.run { [self] () throws(BlockError) in
                try extend(by: count)
            }
            return run
        }
    }

    /// The largest refcount that a cluster can have.
    var countMax: UInt64 { refcounts.countMax }

    /// Says, durably, how many mappings are going to refer to each cluster from `first` on, all of
    /// them taken.
    func setCounts(_ counts: [UInt64], from first: UInt64) async throws(BlockError) {
        try await turn.withLock { () async throws(BlockError) in
            try await pool.run { [self] () throws(BlockError) in
                try refcounts.set(counts, from: first)
            }
        }
    }

    /// Takes one reference from each cluster of `runs`, to which no mapping in the file refers any
    /// more, after the next flush.
    func free(_ runs: [ClusterRun]) {
        state.withLock { state in
            for run in runs { state.freed.appendMerging(run) }
        }
    }

    /// How many runs wait for a flush to be given back.
    var freedRunCount: Int { state.withLock { $0.freed.count + $0.draining.count } }

    /// Flushes if so much was freed that it takes too much memory, and file, to wait for the guest
    /// to ask for it. For whoever changed a mapping, once nothing is locked.
    func flushIfDue() async throws(BlockError) {
        if state.withLock({ $0.freed.count > Self.freedRunsMax }) { try await flush() }
    }

    /// Makes all that was written durable; then gives back what was freed before.
    func flush() async throws(BlockError) {
        let draining = state.withLock { state -> UInt64? in
            if state.draining.isEmpty {
                if state.freed.isEmpty { return nil }
                swap(&state.draining, &state.freed)
                state.drainingUse = cache.startEpoch()
                state.drainings += 1
            }
            return state.drainings
        }
        try await flushFiles()
        guard let draining, !damage.isFound else { return }
        try await turn.withLock { () async throws(BlockError) in
            // Taken out before it is given back: what fails half-way is leaked, never lowered twice.
            let runs = state.withLock { state -> [ClusterRun] in
                guard state.drainings == draining, let use = state.drainingUse,
                    cache.hasDrained(use)
                else { return [] }
                defer {
                    state.draining = []
                    state.drainingUse = nil
                }
                return state.draining
            }
            guard !runs.isEmpty else { return }
            try await pool.run { [self] () throws(BlockError) in
                for run in runs { try giveBack(run) }
            }
        }
    }

    /// Makes all that was written durable, the data before what refers to it.
    private func flushFiles() async throws(BlockError) {
        try await dataFlushes?.flush()
        try await flushes.flush()
    }

    /// Flushes and gives back all that is not in use. No change may be in flight. One may follow,
    /// and needs another close.
    func close() async throws(BlockError) {
        await state.withLock { $0.refill }?.value
        try await flush()
        try await flush()
        if damage.isFound { return }
        try await turn.withLock { () async throws(BlockError) in
            let reserve = state.withLock { state in
                defer {
                    state.reserve = []
                    state.reservedCount = 0
                }
                return state.reserve
            }
            // An image in which nothing was allocated keeps its modification time.
            let cleanEnd = state.withLock { $0.cleanEnd }
            if reserve.isEmpty && refcounts.endCluster == cleanEnd { return }
            try await pool.run { [self] () throws(BlockError) in
                for run in reserve { _ = try refcounts.lower(run) }
                let end = max(endAtOpen, try refcounts.countedEnd())
                refcounts.setEnd(end)
                try file.truncate(toBytes: end << UInt64(geometry.clusterBits))
                state.withLock { state in
                    state.cleanEnd = end
                    for run in reserve { state.searchFrom = min(state.searchFrom, run.first) }
                }
            }
        }
        try await flushes.flush()
    }

    private func takeReserved(upTo count: UInt64) -> ClusterRun? {
        state.withLock { state in
            guard let first = state.reserve.first else { return nil }
            let run = ClusterRun(first: first.first, count: min(count, first.count))
            if run.count == first.count {
                state.reserve.removeFirst()
            } else {
                state.reserve[0] = ClusterRun(first: run.end, count: first.count - run.count)
            }
            state.reservedCount -= run.count
            if state.reservedCount < state.batchCount / 2, state.refill == nil {
                state.refill = Task(executorPreference: pool) { [self] in await refillAhead() }
            }
            return run
        }
    }

    /// Fills the reserve before it is needed. An error is left to whoever finds it empty.
    private func refillAhead() async {
        try? await turn.withLock { () async throws(BlockError) in
            if state.withLock({ $0.reservedCount < $0.batchCount }) { try await refill() }
        }
        state.withLock { $0.refill = nil }
    }

    /// Adds a batch to the reserve. `turn` is held.
    private func refill() async throws(BlockError) {
        // Each batch is a wait for the medium: an image that is filled gets few, large ones.
        let grownCount = refcounts.endCluster - endAtOpen
        let (start, batchCount) = state.withLock { state in
            state.batchCount = min(max(state.batchCount, grownCount / 2), batchCountMax)
            return (state.searchFrom, state.batchCount)
        }
        do throws(BlockError) {
            let (found, searched) = try await pool.run { [self] () throws(BlockError) in
                try refcounts.free(from: start, limit: batchCount)
            }
            state.withLock { $0.searchFrom = searched }
            for run in found {
                if let kind = regions.firstKind(in: run) {
                    throw damage.found(
                        "allocate clusters",
                        "clusters from \(run.first) on count as free, but hold the \(kind.name)")
                }
            }
            if found.isEmpty {
                let run = try await pool.run { [self] () throws(BlockError) in
                    try extend(by: batchCount)
                }
                add([run])
            } else {
                try await reuse(found)
                add(found)
            }
        } catch {
            refcounts.forgetBlocks()
            state.withLock { $0.searchFrom = start }
            throw error
        }
    }

    private func add(_ runs: [ClusterRun]) {
        state.withLock { state in
            for run in runs {
                state.reserve.append(run)
                state.reservedCount += run.count
            }
        }
    }

    /// Makes clusters with a refcount of zero ready for use.
    private func reuse(_ runs: [ClusterRun]) async throws(BlockError) {
        try await pool.run { [self] () throws(BlockError) in
            for run in runs { try file.writeZeroes(bytes(of: run), mayUnmap: true) }
        }
        // The zeroes, and whatever mapping freed these clusters in an earlier life of the image.
        try await flushes.flush()
        try await pool.run { [self] () throws(BlockError) in
            for run in runs { try refcounts.setOne(run) }
        }
    }

    /// Grows the file by `count` clusters for use, and by the refcount blocks, and if need be the
    /// larger refcount table, that these take. Blocks.
    private func extend(by count: UInt64) throws(BlockError) -> ClusterRun {
        let first = refcounts.endCluster
        var blocks: [Int] = []
        var tableCount: UInt64 = 0
        var all = ClusterRun(first: first, count: count)
        while true {
            all.count = tableCount + UInt64(blocks.count) + count
            let missing = refcounts.missingBlocks(for: all)
            let needed = missing.last.map { refcounts.tableClusters(forBlock: $0) } ?? 0
            if missing.count == blocks.count && needed <= tableCount { break }
            blocks = missing
            tableCount = max(tableCount, needed)
        }
        guard tableCount * geometry.clusterBytes <= Qcow2Layout.refcountTableBytesMax,
            all.end <= Qcow2Layout.offsetMask >> UInt64(geometry.clusterBits)
        else {
            throw BlockError(
                .noSpace, "allocate clusters", on: file.path,
                detail: "the image is as large as clusters of \(geometry.clusterBytes) bytes allow")
        }
        // Cutting first makes sure that nothing of a failed attempt shows through.
        try file.truncate(toBytes: bytes(of: all).offset)
        try file.truncate(toBytes: bytes(of: all).end)
        let placed = blocks.enumerated().map { (number: $1, host: first + tableCount + UInt64($0)) }
        for block in placed { try refcounts.writeBlock(block.number, at: block.host, used: all) }
        try refcounts.setOne(all)
        // From here on these clusters may be referred to: another attempt must not cut them off.
        refcounts.setEnd(all.end)
        cache.setHostEnd(bytes(of: all).end)
        if tableCount > 0 {
            let place = ClusterRun(first: first, count: tableCount)
            let table = try refcounts.writeTable(at: place, blocks: placed)
            let old = try refcounts.switchTable(to: place, table)
            _ = try refcounts.lower(old)
            state.withLock { $0.searchFrom = min($0.searchFrom, old.first) }
        } else {
            try refcounts.link(placed)
        }
        return ClusterRun(first: all.end - count, count: count)
    }

    private func giveBack(_ run: ClusterRun) throws(BlockError) {
        for unused in try refcounts.lower(run) {
            _ = try file.deallocate(bytes(of: unused))
            state.withLock { $0.searchFrom = min($0.searchFrom, unused.first) }
        }
    }

    private func bytes(of run: ClusterRun) -> ByteRange { geometry.bytes(of: run) }
}

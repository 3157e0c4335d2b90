import BlockCore
import Catalog
import Synchronization

// The regions of a volume that may be written without telling the catalog first.
//
// The rule that everything else rests on: at every instant, the durable bitmaps together with the
// regions in the log cover every byte that differs from the last committed point. So a region is
// committed to the catalog *before* the first write into it begins; after a crash the regions in
// the catalog are marked dirty in every recording bitmap.
//
// Memory follows the catalog, never leads it: a bit here is set after the commit that holds the
// region, and dropped before the commit that removes it, either with all writes held or as
// `Retirement` says. Whatever changes the catalog's regions happens on the catalog's one thread
// (see `CatalogQueue`), so that no two changes can pass each other.

/// One volume's announced regions.
final class ActivityLog: Sendable {
    /// Above so many regions of one volume the coldest are retired: they bound what is dirty after
    /// a crash without need.
    static let regionCountMax = 4096

    let volumeID: Int64
    let lengthBytes: UInt64
    let regionBytes: UInt64
    /// What an announcement has to survive.
    let durability: Durability

    private let announced: AtomicWords
    /// The regions written since `noteUse` last looked.
    private let used: AtomicWords
    private let queue: CatalogQueue
    private let state = Mutex(State())

    private struct State {
        /// When each region of the log was last seen to be in use.
        var lastUse: [Int: ContinuousClock.Instant] = [:]
        var isRetiring = false
        var isEnded = false

        var coldestFirst: [(key: Int, value: ContinuousClock.Instant)] {
            lastUse.sorted { ($0.value, $0.key) < ($1.value, $1.key) }
        }
    }

    init(
        volumeID: Int64, lengthBytes: UInt64, regionBytes: UInt64, durability: Durability,
        queue: CatalogQueue
    ) {
        self.volumeID = volumeID
        self.lengthBytes = lengthBytes
        self.regionBytes = regionBytes
        self.durability = durability
        self.queue = queue
        let regionCount = Int((lengthBytes + regionBytes - 1) / regionBytes)
        announced = AtomicWords(count: (regionCount + 63) / 64)
        used = AtomicWords(count: (regionCount + 63) / 64)
    }

    /// The region size for a length: at most 16,384 regions, at least 1 MiB each.
    static func regionBytes(forLength lengthBytes: UInt64) -> UInt64 {
        var regionBytes: UInt64 = 1 << 20
        while lengthBytes / regionBytes > 16_384 { regionBytes *= 2 }
        return regionBytes
    }

    /// Whether every region that `range` touches is in the log; it counts as a use of them. Never
    /// waits.
    func isAnnounced(_ range: ByteRange) -> Bool {
        if range.isEmpty || Mutant.writeWithoutAnnouncement.isActive { return true }
        for region in regions(of: range) {
            guard announced.isSet(region) else { return false }
            used.set(region)
        }
        return true
    }

    /// Commits the regions of `range` that are not in the log yet. Many callers share a commit.
    ///
    /// A volume that has been closed or resized meanwhile has another log or none: nothing is
    /// committed then, and the caller has to look again.
    func announce(_ range: ByteRange) async throws(BlockError) {
        let missing = regions(of: range).filter { !announced.isSet($0) }
        if missing.isEmpty || Mutant.writeWithoutAnnouncement.isActive { return }
        try await queue.announce(missing, in: self)
    }

    /// The bytes of a region that the catalog names.
    func range(ofRegion region: UInt64) -> ByteRange {
        let (offset, isBeyond) = region.multipliedReportingOverflow(by: regionBytes)
        let start = isBeyond ? lengthBytes : min(offset, lengthBytes)
        return ByteRange(offset: start, end: start + min(regionBytes, lengthBytes - start))
    }

    // MARK: On the catalog's thread

    /// After the commit that holds `regions`.
    func didCommit(_ regions: [Int], at now: ContinuousClock.Instant = .now) {
        state.withLock { state in
            for region in regions { state.lastUse[region] = now }
        }
        for region in regions { announced.set(region) }
    }

    /// With writes held, in the step that removed all regions from the catalog.
    func didClear() {
        announced.clearAll()
        state.withLock { $0.lastUse = [:] }
    }

    /// The regions that were used lately, if there are so many that it would show at a guest if each
    /// had to be announced again by the next write into it.
    func manyInUse() -> [Int] {
        let now = ContinuousClock.now
        noteUse(at: now)
        let limit = now - .seconds(10)
        let inUse = state.withLock { $0.lastUse.filter { $0.value >= limit }.map(\.key) }
        return inUse.count < 64 ? [] : inUse
    }

    /// Has `regions` announced soon, which nobody waits for: one commit instead of as many waits.
    func announceSoon(_ regions: [Int]) {
        guard !regions.isEmpty else { return }
        // If it fails, whoever writes there announces the region, and learns why.
        Task { try? await queue.announce(regions.sorted(), in: self) }
    }

    /// No region is announced any more: the volume is closed, or has another log.
    func end() {
        didClear()
        state.withLock { $0.isEnded = true }
    }

    /// Whether `end` was called.
    var isEnded: Bool { state.withLock { $0.isEnded } }

    /// From now on writes into `region` have to announce it.
    func close(_ region: Int) { announced.clear(region) }

    /// Takes back a `close` of a region that is still in the catalog, as it is in use.
    func reopen(_ region: Int, at now: ContinuousClock.Instant = .now) {
        state.withLock { $0.lastUse[region] = now }
        announced.set(region)
    }

    /// Closed regions have left the catalog, or may have: the commit failed.
    func didRemove(_ regions: [Int]) {
        state.withLock { state in
            for region in regions { state.lastUse[region] = nil }
        }
    }

    /// The regions that nobody has used for so long, coldest first.
    func regions(unusedFor duration: Duration) -> [Int] {
        let now = ContinuousClock.now
        noteUse(at: now)
        let limit = now - duration
        return state.withLock { $0.coldestFirst.prefix { $0.value <= limit }.map(\.key) }
    }

    /// The coldest regions, so many that without them the log is well below its bound.
    func excess() -> [Int] {
        noteUse(at: .now)
        return state.withLock { state in
            let count = state.lastUse.count - Self.regionCountMax
            guard count > 0 else { return [] }
            return state.coldestFirst.prefix(count + Self.regionCountMax / 16).map(\.key)
        }
    }

    /// Whether the caller has to see to the excess: the log is above its bound, and nobody else
    /// does. On any thread.
    func beginRetiring() -> Bool {
        state.withLock { state in
            guard !state.isRetiring, state.lastUse.count > Self.regionCountMax else { return false }
            state.isRetiring = true
            return true
        }
    }

    /// Ends what `beginRetiring` began.
    func endRetiring() { state.withLock { $0.isRetiring = false } }

    /// Uses are found out in retrospect, so that a write has nothing to do but set a bit.
    private func noteUse(at now: ContinuousClock.Instant) {
        state.withLock { state in
            for region in state.lastUse.keys where used.clear(region) {
                state.lastUse[region] = now
            }
        }
    }

    private func regions(of range: ByteRange) -> ClosedRange<Int> {
        Int(range.offset / regionBytes)...Int((range.end - 1) / regionBytes)
    }
}

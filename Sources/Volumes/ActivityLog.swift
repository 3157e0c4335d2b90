import BlockCore
import Synchronization

// The regions of a volume that may be written without telling the catalog first.
//
// The rule that everything else rests on: at every instant, the durable bitmaps together with the
// regions in the log cover every byte that differs from the last committed point. So a region is
// committed to the catalog *before* the first write into it begins; after a crash the regions in
// the catalog are marked dirty in every recording bitmap.
//
// Memory follows the catalog, never leads it: a bit here is set after the commit that holds the
// region, and bits are dropped only with writes held, in the step that removes the regions from
// the catalog. Both happen on the catalog's one thread (see `CatalogQueue`), so they cannot pass
// each other.

/// One volume's announced regions.
final class ActivityLog: Sendable {
    let volumeID: Int64
    let regionBytes: UInt64

    private let words: AtomicWords
    private let regionCount: Int
    private let queue: CatalogQueue

    init(volumeID: Int64, lengthBytes: UInt64, regionBytes: UInt64, queue: CatalogQueue) {
        self.volumeID = volumeID
        self.regionBytes = regionBytes
        self.queue = queue
        regionCount = Int((lengthBytes + regionBytes - 1) / regionBytes)
        words = AtomicWords(count: (regionCount + 63) / 64)
    }

    /// The region size of a new volume: at most 16,384 regions, at least 1 MiB each.
    static func regionBytes(forLength lengthBytes: UInt64) -> UInt64 {
        var regionBytes: UInt64 = 1 << 20
        while lengthBytes / regionBytes > 16_384 { regionBytes *= 2 }
        return regionBytes
    }

    /// Whether every region that `range` touches is in the log. Never waits.
    func isAnnounced(_ range: ByteRange) -> Bool {
        if range.isEmpty || Mutant.writeWithoutAnnouncement.isActive { return true }
        for region in regions(of: range) where !words.isSet(region) { return false }
        return true
    }

    /// Commits the regions of `range` that are not in the log yet. Many callers share a commit.
    func announce(_ range: ByteRange) async throws(BlockError) {
        let missing = regions(of: range).filter { !words.isSet($0) }
        if missing.isEmpty || Mutant.writeWithoutAnnouncement.isActive { return }
        try await queue.announce(missing, in: self)
    }

    /// The bytes of a region that the catalog names.
    func range(ofRegion region: UInt64) -> ByteRange {
        ByteRange(offset: region * regionBytes, lengthBytes: regionBytes)
    }

    /// On the catalog's thread, after the commit that holds `regions`.
    func didCommit(_ regions: [Int]) {
        for region in regions { words.set(region) }
    }

    /// On the catalog's thread, with writes held, in the step that removed all regions from the
    /// catalog.
    func didClear() {
        words.clearAll()
    }

    private func regions(of range: ByteRange) -> ClosedRange<Int> {
        Int(range.offset / regionBytes)...Int((range.end - 1) / regionBytes)
    }
}

import BlockCore

/// What follows from the cluster size and the image size.
struct Qcow2Geometry: Sendable, Equatable {
    let clusterBits: Int
    let sizeBytes: UInt64
    /// Whether L2 entries have 16 bytes, and clusters 32 parts that are mapped one by one.
    var hasSubclusters = false

    var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }

    /// What is mapped one by one, a cluster or a subcluster, has two to this power bytes.
    var unitBits: Int { hasSubclusters ? clusterBits - 5 : clusterBits }
    var unitBytes: UInt64 { 1 << UInt64(unitBits) }
    var unitsPerCluster: Int { hasSubclusters ? 32 : 1 }

    /// The 8-byte words of an L2 entry.
    var entryWords: Int { hasSubclusters ? 2 : 1 }
    /// L2 entries in one table, a table being one cluster: two to this power.
    var l2EntryBits: Int { clusterBits - (hasSubclusters ? 4 : 3) }
    var l2EntryCount: Int { 1 << l2EntryBits }
    /// The guest bytes that one L2 table maps: two to this power.
    var l2CoverBits: Int { clusterBits + l2EntryBits }
    /// Guest clusters, the last perhaps in part.
    var clusterCount: UInt64 { clusters(for: sizeBytes) }
    /// The L1 entries that the size needs.
    var l1Count: UInt64 { l1Count(for: sizeBytes) }

    /// The L1 entries that an image of `sizeBytes` needs.
    func l1Count(for sizeBytes: UInt64) -> UInt64 {
        (clusters(for: sizeBytes) + UInt64(l2EntryCount) - 1) >> UInt64(l2EntryBits)
    }

    /// The L1 entry that maps a guest offset.
    func l1Index(of guestOffset: UInt64) -> Int { Int(guestOffset >> UInt64(l2CoverBits)) }

    /// The entry within its L2 table that maps a guest offset.
    func l2Index(of guestOffset: UInt64) -> Int {
        Int(guestOffset >> UInt64(clusterBits)) & (l2EntryCount - 1)
    }

    /// Which unit of its cluster holds a guest offset.
    func unitIndex(of guestOffset: UInt64) -> Int {
        Int(guestOffset >> UInt64(unitBits)) & (unitsPerCluster - 1)
    }

    /// The clusters that `bytes` take.
    func clusters(for bytes: UInt64) -> UInt64 {
        (bytes + clusterBytes - 1) >> UInt64(clusterBits)
    }

    /// The bytes of `run` in the host file.
    func bytes(of run: ClusterRun) -> ByteRange {
        ByteRange(
            offset: run.first << UInt64(clusterBits), lengthBytes: run.count << UInt64(clusterBits))
    }

    /// The clusters that `range` of the host file touches.
    func clusters(of range: ByteRange) -> ClusterRun {
        let first = range.offset >> UInt64(clusterBits)
        return ClusterRun(first: first, count: clusters(for: range.end) - first)
    }
}

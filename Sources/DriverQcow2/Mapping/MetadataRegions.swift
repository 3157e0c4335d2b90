import BlockCore

// Which clusters of the host file hold metadata, so that nothing else is ever written there because
// a damaged table says so. Known are the tables that the header and the active L1 table lead to, and
// the L1 tables of snapshots; not their L2 tables, which would have to be read for that.

/// The clusters of the host file that hold metadata.
final class MetadataRegions: Sendable {
    /// What a cluster holds. Where two claim one, it is the first of these.
    enum Kind: UInt64 {
        case header, l1Table, refcountTable, refcountBlock, snapshotTable, snapshotL1Table
        case bitmapDirectory, l2Table, sharedL2Table

        var name: String {
            switch self {
            case .header: "header"
            case .l1Table: "L1 table"
            case .refcountTable: "refcount table"
            case .refcountBlock: "refcount blocks"
            case .snapshotTable: "snapshot table"
            case .snapshotL1Table: "L1 table of a snapshot"
            case .bitmapDirectory: "bitmap directory"
            case .l2Table: "L2 tables"
            case .sharedL2Table: "L2 tables, used twice"
            }
        }
    }

    private static let kindBits: UInt64 = 4
    private static let kindMask: UInt64 = 15

    private let geometry: Qcow2Geometry
    /// Ascending; the number of the cluster, and in the low bits what it holds.
    private let clusters: HostMutex<[UInt64]>

    init(
        header: Qcow2Header, l1: [UInt64], refcountTable: [UInt64], snapshots: SnapshotTable
    ) {
        geometry = header.geometry
        let geometry = geometry
        var all: [UInt64] = []
        func add(_ range: ByteRange, _ kind: Kind) {
            let run = geometry.clusters(of: range)
            for cluster in run.first..<run.end {
                all.append(cluster << Self.kindBits | kind.rawValue)
            }
        }
        func addClusters(_ offsets: [UInt64], _ kind: Kind) {
            for offset in offsets where offset & Qcow2Layout.offsetMask != 0 {
                let cluster = (offset & Qcow2Layout.offsetMask) >> UInt64(geometry.clusterBits)
                all.append(cluster << Self.kindBits | kind.rawValue)
            }
        }
        add(ByteRange(offset: 0, lengthBytes: 1), .header)
        add(
            ByteRange(offset: header.l1Offset, lengthBytes: UInt64(header.l1Count) * 8), .l1Table)
        add(
            ByteRange(
                offset: header.refcountTableOffset,
                lengthBytes: UInt64(header.refcountTableClusters) * header.clusterBytes),
            .refcountTable)
        addClusters(refcountTable, .refcountBlock)
        add(snapshots.place, .snapshotTable)
        for snapshot in snapshots.snapshots {
            add(
                ByteRange(
                    offset: snapshot.l1Offset, lengthBytes: UInt64(snapshot.l1Count) * 8),
                .snapshotL1Table)
        }
        // Without its feature bit the list is stale, and its clusters may be anybody's.
        if let bitmaps = header.bitmaps,
            header.autoclear & Qcow2Layout.Autoclear.bitmaps != 0,
            bitmaps.lengthBytes <= 16 << 20, bitmaps.offset <= UInt64(Int64.max)
        {
            add(
                ByteRange(offset: bitmaps.offset, lengthBytes: bitmaps.lengthBytes),
                .bitmapDirectory)
        }
        addClusters(l1, .l2Table)
        clusters = HostMutex(Self.resolved(all.sorted()))
    }

    /// One claim for each cluster, of ascending ones.
    private static func resolved(_ claims: [UInt64]) -> [UInt64] {
        var result: [UInt64] = []
        result.reserveCapacity(claims.count)
        for claim in claims {
            guard let last = result.last, last >> kindBits == claim >> kindBits else {
                result.append(claim)
                continue
            }
            if last == claim && last & kindMask == Kind.l2Table.rawValue {
                result[result.count - 1] = last & ~kindMask | Kind.sharedL2Table.rawValue
            }
        }
        return result
    }

    /// Says that `run` holds metadata from now on.
    func add(_ run: ClusterRun, _ kind: Kind) {
        clusters.withLock { clusters in
            for cluster in run.first..<run.end {
                let index = Self.index(of: cluster, in: clusters)
                let claim = cluster << Self.kindBits | kind.rawValue
                if index < clusters.count, clusters[index] >> Self.kindBits == cluster {
                    clusters[index] = claim
                } else {
                    clusters.insert(claim, at: index)
                }
            }
        }
    }

    /// Says that `run` holds metadata no more.
    func remove(_ run: ClusterRun) {
        clusters.withLock { clusters in
            let start = Self.index(of: run.first, in: clusters)
            let end = Self.index(of: run.end, in: clusters)
            clusters.removeSubrange(start..<end)
        }
    }

    /// What the first cluster of `run` that holds metadata holds; nil if none does.
    func firstKind(in run: ClusterRun) -> Kind? {
        clusters.withLock { clusters in
            let index = Self.index(of: run.first, in: clusters)
            guard index < clusters.count, clusters[index] >> Self.kindBits < run.end else {
                return nil
            }
            return Kind(rawValue: clusters[index] & Self.kindMask)
        }
    }

    /// The index of the first claim on a cluster that is not below `cluster`.
    private static func index(of cluster: UInt64, in clusters: [UInt64]) -> Int {
        // New clusters are mostly behind all others.
        if let last = clusters.last, last >> kindBits < cluster { return clusters.count }
        var low = 0
        var high = clusters.count
        while low < high {
            let middle = (low + high) / 2
            if clusters[middle] >> kindBits < cluster { low = middle + 1 } else { high = middle }
        }
        return low
    }
}

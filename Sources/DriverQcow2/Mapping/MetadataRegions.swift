import BlockCore

// Which clusters of the host file hold metadata, so that nothing else is ever written there because
// a damaged table says so. Known are the tables that the header and the active L1 table lead to,
// and the L1 tables of snapshots; not their L2 tables, which would have to be read for that.
//
// Memory: one number for each L2 table and refcount block, which the format's limits on the L1
// table and the refcount table keep below 40 MiB; and one run for each other table, of which an
// image has no more than it has snapshots, however long they are.

/// The clusters of the host file that hold metadata.
final class MetadataRegions: Sendable {
    /// What a cluster holds. Where two claim one, it is mostly the first of these.
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

        /// Whether it takes one cluster each, of which there are many.
        var isSingle: Bool {
            switch self {
            case .refcountBlock, .l2Table, .sharedL2Table: true
            default: false
            }
        }
    }

    private struct State {
        /// Ascending; the number of the cluster, and in the low bits what it holds.
        var singles: [UInt64]
        /// Ascending, none on another.
        var runs: [(run: ClusterRun, kind: Kind)]
    }

    private static let kindBits: UInt64 = 4
    private static let kindMask: UInt64 = 15

    private let state: HostMutex<State>
    /// Whether QEMU's list of bitmaps lies on anything else that is known here.
    let isBitmapDirectoryShared: Bool

    init(
        header: Qcow2Header, l1: [UInt64], refcountTable: [UInt64], snapshots: SnapshotTable
    ) {
        let geometry = header.geometry
        var singles: [UInt64] = []
        var runs: [(run: ClusterRun, kind: Kind)] = []
        func add(_ offset: UInt64, _ lengthBytes: UInt64, _ kind: Kind) {
            guard lengthBytes > 0 else { return }
            let range = ByteRange(offset: offset, lengthBytes: lengthBytes)
            runs.append((geometry.clusters(of: range), kind))
        }
        func addClusters(_ offsets: [UInt64], _ kind: Kind) {
            for offset in offsets where offset & Qcow2Layout.offsetMask != 0 {
                let cluster = (offset & Qcow2Layout.offsetMask) >> UInt64(geometry.clusterBits)
                singles.append(cluster << Self.kindBits | kind.rawValue)
            }
        }
        add(0, 1, .header)
        add(header.l1Offset, UInt64(header.l1Count) * 8, .l1Table)
        add(
            header.refcountTableOffset, UInt64(header.refcountTableClusters) * header.clusterBytes,
            .refcountTable)
        addClusters(refcountTable, .refcountBlock)
        add(snapshots.place.offset, snapshots.place.lengthBytes, .snapshotTable)
        for snapshot in snapshots.snapshots {
            add(snapshot.l1Offset, UInt64(snapshot.l1Count) * 8, .snapshotL1Table)
        }
        addClusters(l1, .l2Table)
        singles.sort()
        var isShared = false
        // Without its feature bit the list is stale, and its clusters may be anybody's.
        if let bitmaps = header.bitmaps,
            header.autoclear & Qcow2Layout.Autoclear.bitmaps != 0,
            bitmaps.lengthBytes <= 16 << 20, bitmaps.offset <= UInt64(Int64.max)
        {
            let run = geometry.clusters(
                of: ByteRange(offset: bitmaps.offset, lengthBytes: bitmaps.lengthBytes))
            let single = Self.index(of: run.first, in: singles)
            isShared =
                single < singles.count && singles[single] >> Self.kindBits < run.end
                || runs.contains { $0.run.first < run.end && run.first < $0.run.end }
            add(bitmaps.offset, bitmaps.lengthBytes, .bitmapDirectory)
        }
        isBitmapDirectoryShared = isShared
        runs.sort { ($0.run.first, $0.kind.rawValue) < ($1.run.first, $1.kind.rawValue) }
        state = HostMutex(
            State(singles: Self.resolved(singles), runs: Self.withoutOverlaps(runs)))
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

    /// The same clusters in runs that do not lie on one another, of ascending ones.
    private static func withoutOverlaps(
        _ runs: [(run: ClusterRun, kind: Kind)]
    ) -> [(run: ClusterRun, kind: Kind)] {
        var result: [(run: ClusterRun, kind: Kind)] = []
        for (run, kind) in runs {
            let first = max(run.first, result.last?.run.end ?? 0)
            guard first < run.end else { continue }
            result.append((ClusterRun(first: first, count: run.end - first), kind))
        }
        return result
    }

    /// Says that `run`, of which nothing was known, holds metadata from now on.
    func add(_ run: ClusterRun, _ kind: Kind) {
        state.withLock { state in
            guard kind.isSingle else {
                let index = Self.index(of: run.first, in: state.runs)
                state.runs.insert((run, kind), at: index)
                return
            }
            for cluster in run.first..<run.end {
                let index = Self.index(of: cluster, in: state.singles)
                let claim = cluster << Self.kindBits | kind.rawValue
                if index < state.singles.count, state.singles[index] >> Self.kindBits == cluster {
                    state.singles[index] = claim
                } else {
                    state.singles.insert(claim, at: index)
                }
            }
        }
    }

    /// Says that `run`, one table, holds metadata no more.
    func remove(_ run: ClusterRun) {
        state.withLock { state in
            let start = Self.index(of: run.first, in: state.singles)
            let end = Self.index(of: run.end, in: state.singles)
            state.singles.removeSubrange(start..<end)
            state.runs.removeAll { $0.run.first >= run.first && $0.run.end <= run.end }
        }
    }

    /// What the first cluster of `run` that holds metadata holds; nil if none does.
    func firstKind(in run: ClusterRun) -> Kind? {
        state.withLock { state in
            var found: (cluster: UInt64, kind: Kind)?
            let single = Self.index(of: run.first, in: state.singles)
            if single < state.singles.count {
                let claim = state.singles[single]
                if claim >> Self.kindBits < run.end {
                    found = (
                        claim >> Self.kindBits, Kind(rawValue: claim & Self.kindMask)!
                    )
                }
            }
            let index = Self.index(of: run.first, in: state.runs)
            guard index < state.runs.count, state.runs[index].run.first < run.end else {
                return found?.kind
            }
            let other = state.runs[index]
            let cluster = max(other.run.first, run.first)
            guard let found, (found.cluster, found.kind.rawValue) < (cluster, other.kind.rawValue)
            else { return other.kind }
            return found.kind
        }
    }

    /// The index of the first claim on a cluster that is not below `cluster`.
    private static func index(of cluster: UInt64, in singles: [UInt64]) -> Int {
        // New clusters are mostly behind all others.
        if let last = singles.last, last >> kindBits < cluster { return singles.count }
        return firstIndex(below: singles.count) { singles[$0] >> kindBits >= cluster }
    }

    /// The index of the first run that does not end before `cluster`, or at it.
    private static func index(
        of cluster: UInt64, in runs: [(run: ClusterRun, kind: Kind)]
    ) -> Int {
        firstIndex(below: runs.count) { runs[$0].run.end > cluster }
    }

    /// The first of the indices below `count` for which `isReached` holds, as for all after it.
    private static func firstIndex(below count: Int, where isReached: (Int) -> Bool) -> Int {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if isReached(middle) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

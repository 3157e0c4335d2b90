import BlockCore

/// Changes entries of L1 and L2 tables in place: those in one window, and only where a cluster is
/// that table and nothing else, for fear of writing over what shares it.
struct EntryRewrite {
    /// Gathered offsets of L2 tables before they are looked at.
    private static let gatheredMax = 4 << 20

    let file: any StorageFile
    let header: StoredHeader
    /// What refers to the clusters of the window.
    let counts: ReferenceCounts

    /// Passes every entry that is in use to `change`, which says whether it is one of an L1 table,
    /// and stores what comes back.
    func run(
        snapshots: Bool,
        _ change: (TableEntry, _ isTable: Bool) throws(BlockError) -> TableEntry
    ) throws(BlockError) {
        try rewriteL1(header.l1Offset, UInt64(header.l1Count), change)
        guard snapshots else { return }
        let table: StoredSnapshots
        do throws(BlockError) {
            table = try StoredSnapshots(file: file, header: header)
        } catch {
            // The check has reported it; their tables cannot be found.
            guard error.kind == .corrupt else { throw error }
            return
        }
        for snapshot in table.snapshots
        where snapshot.l1Offset % header.clusterBytes == 0
            && UInt64(snapshot.l1Count) * 8 <= Qcow2Layout.l1BytesMax
        {
            try rewriteL1(snapshot.l1Offset, UInt64(snapshot.l1Count), change)
        }
    }

    private func rewriteL1(
        _ offset: UInt64, _ count: UInt64,
        _ change: (TableEntry, _ isTable: Bool) throws(BlockError) -> TableEntry
    ) throws(BlockError) {
        let fileBytes = try file.sizeBytes()
        guard offset <= fileBytes, count * 8 <= fileBytes - offset else { return }
        var tables: [UInt64] = []
        let step = header.clusterBytes / 8
        for first in stride(from: 0, to: count, by: Int(step)) {
            let place = offset + first * 8
            let old = try file.readNumbers(Int(min(step, count - first)), at: place)
            var new = old
            for (index, entry) in old.enumerated() where entry != 0 {
                new[index] = try change(TableEntry(raw: entry), true).raw
                tables.append(new[index] & Qcow2Layout.offsetMask)
            }
            if new != old, isOnly(.exclusive, at: place) {
                try file.writeNumbers(new, at: place)
            }
            if tables.count >= Self.gatheredMax { try rewriteL2(&tables, change) }
        }
        try rewriteL2(&tables, change)
    }

    private func rewriteL2(
        _ tables: inout [UInt64],
        _ change: (TableEntry, _ isTable: Bool) throws(BlockError) -> TableEntry
    ) throws(BlockError) {
        tables.sort()
        var previous: UInt64?
        for offset in tables where offset != previous {
            previous = offset
            guard offset % header.clusterBytes == 0, isOnly(.table, at: offset) else { continue }
            var table = try EntryTable(file: file, header: header, at: offset)
            var hasChanged = false
            var index = table.next(from: 0)
            while let used = index {
                let new = try change(table[used], false)
                if new != table[used] {
                    table[used] = new
                    hasChanged = true
                }
                index = table.next(from: used + 1)
            }
            if hasChanged { try table.write(to: file, at: offset) }
        }
        tables.removeAll(keepingCapacity: true)
    }

    private func isOnly(_ kind: ReferenceKind, at offset: UInt64) -> Bool {
        let cluster = offset >> UInt64(header.clusterBits)
        guard counts.window.contains(cluster), counts.kinds(of: cluster) == kind else {
            return false
        }
        return kind != .exclusive || counts.count(of: cluster) == 1
    }
}

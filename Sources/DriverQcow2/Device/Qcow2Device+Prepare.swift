import BlockCore
import Synchronization

extension Qcow2Device {
    /// Makes the header fit for guest data to change: the bitmaps that it lists miss writes from
    /// now on, and features that are unknown here and whose data would grow stale are cleared.
    func prepare() async throws(BlockError) {
        try damage.check("write")
        if isPrepared.load(ordering: .acquiring) { return }
        try await tables.withLock { () async throws(BlockError) in
            if isPrepared.load(ordering: .acquiring) { return }
            try await pool.run { [self] () throws(BlockError) in try clearFeatures() }
            isPrepared.store(true, ordering: .releasing)
        }
    }

    private func clearFeatures() throws(BlockError) {
        var kept = header.keptAutoclear
        // A list that lies on something else is not written to: its flags would be written there.
        if header.autoclear & Qcow2Layout.Autoclear.bitmaps != 0, let place = header.bitmaps,
            regions?.isBitmapDirectoryShared == false,
            var directory = try BitmapDirectory(
                place, file: file, clusterBytes: header.clusterBytes)
        {
            try directory.markInUse()
            kept |= Qcow2Layout.Autoclear.bitmaps
        }
        guard kept != header.autoclear else { return }
        try file.writeNumbers([kept], at: UInt64(Qcow2Layout.Field.autoclear), durably: true)
    }

    /// Makes sure that there is an L2 table for `l1Index` that nothing else refers to, so that its
    /// entries may be changed.
    func makeTableOwn(_ l1Index: Int) async throws(BlockError) {
        if cache.l1Entry(l1Index) & Qcow2Layout.copied != 0 { return }
        try await tables.withLock { () async throws(BlockError) in
            let entry = cache.l1Entry(l1Index)
            if entry & Qcow2Layout.copied != 0 { return }
            let allocator = try writableAllocator("write")
            // Read before a cluster is taken, so that an invalid table costs none.
            let words = try await pool.run { [self] () throws(BlockError) in
                try entry == 0
                    ? [UInt64](repeating: 0, count: geometry.l2EntryCount * geometry.entryWords)
                    : wordsOfTable(l1Index)
            }
            let run = try await allocator.take(upTo: 1)
            regions?.add(run, .l2Table)
            let host = geometry.bytes(of: run).offset
            try await pool.run { [cache, file] () throws(BlockError) in
                // A new cluster is an empty table; a copy must be durable before L1 names it.
                if entry != 0 { try file.writeNumbers(words, at: host, durably: true) }
                try cache.setTable(l1Index, host: host, words: words)
            }
            if entry != 0 {
                let old = (entry & Qcow2Layout.offsetMask) >> UInt64(geometry.clusterBits)
                regions?.remove(ClusterRun(first: old, count: 1))
                allocator.free([ClusterRun(first: old, count: 1)])
            }
        }
    }

    /// The L2 table of `l1Index`, all of it valid.
    private func wordsOfTable(_ l1Index: Int) throws(BlockError) -> [UInt64] {
        let guestOffset = UInt64(l1Index) << UInt64(geometry.l2CoverBits)
        return try cache.entries(from: guestOffset, count: geometry.l2EntryCount)
            .words(entryWords: geometry.entryWords)
    }
}

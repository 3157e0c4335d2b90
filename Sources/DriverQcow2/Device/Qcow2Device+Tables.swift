import BlockCore

extension Qcow2Device {
    /// Makes sure that there is an L2 table for `l1Index` that nothing else refers to, so that its
    /// entries may be changed.
    func makeTableOwn(_ l1Index: Int) async throws(BlockError) {
        if cache.l1Entry(l1Index) & Qcow2Layout.copied != 0 { return }
        try await tables.withLock { () async throws(BlockError) in
            let entry = cache.l1Entry(l1Index)
            if entry & Qcow2Layout.copied != 0 { return }
            let allocator = try writableAllocator("write")
            // Any guest offset of the table; entries are read before a cluster is taken, so that
            // an invalid table costs none.
            let guestOffset = UInt64(l1Index) << UInt64(geometry.l2CoverBits)
            let entries = try await pool.run { [cache, geometry] () throws(BlockError) in
                try cache.entries(from: guestOffset, count: geometry.l2EntryCount)
            }
            let run = try await allocator.take(upTo: 1)
            let host = run.first << UInt64(geometry.clusterBits)
            try await pool.run { [cache, file] () throws(BlockError) in
                // A new cluster is an empty table; a copy must be durable before L1 names it.
                if entry != 0 { try file.writeNumbers(entries, at: host, durably: true) }
                try cache.setTable(l1Index, host: host, entries: entries)
            }
            if entry != 0 {
                let old = (entry & Qcow2Layout.offsetMask) >> UInt64(geometry.clusterBits)
                allocator.free([ClusterRun(first: old, count: 1)])
            }
        }
    }
}

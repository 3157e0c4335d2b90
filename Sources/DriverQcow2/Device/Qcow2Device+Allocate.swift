import BlockCore

// Writes to clusters that have no place yet that may be written, or to subclusters that are not
// stored yet in the place that their cluster has.

extension Qcow2Device {
    /// Clusters that get data, and where.
    private struct Placement {
        /// The guest's bytes, of whole clusters.
        let range: ByteRange
        /// The entries that map them now.
        let old: [L2Entry]
        let host: UInt64
        /// Clusters out of the reserve, which are known to be zero; nil for a place that was there.
        let fresh: ClusterRun?
    }

    /// Writes `source`, which begins in a cluster that needs a new place, as far as such clusters,
    /// and new places one after the other, reach; returns how far. The clusters are locked, and are
    /// in one L2 table.
    func allocateAndWrite(
        at offset: UInt64, from source: BufferSlice
    ) async throws(BlockError) -> Int {
        let request = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        let start = offset.alignedDown(to: geometry.clusterBytes)
        try await makeTableOwn(geometry.l1Index(of: offset))
        let placement = try await place(
            from: start, countMax: Int(geometry.clusters(for: request.end - start)))
        let part = request.intersection(placement.range)
        let outer = grown(part, placement)
        do throws(BlockError) {
            try await fill(
                outer, placement, with: source.slice(0, Int(part.lengthBytes)), for: part)
        } catch {
            if let fresh = placement.fresh { allocator?.free([fresh]) }
            throw error
        }
        let entries = newEntries(placement, storing: outer)
        try await pool.run { [cache] () throws(BlockError) in
            try cache.setEntries(entries, from: start)
        }
        if placement.fresh != nil {
            allocator?.free(placement.old.compactMap { cache.decoder.storage(of: $0) })
        }
        return Int(part.lengthBytes)
    }

    /// Finds a place for the clusters from `start` on that cannot be written as they are,
    /// `countMax` at most. The first one is known to be such.
    private func place(
        from start: UInt64, countMax: Int
    ) async throws(BlockError) -> Placement {
        let decoder = cache.decoder
        let entries = try await pool.run { [cache] () throws(BlockError) in
            try cache.entries(from: start, count: countMax)
        }
        if header.hasDataFile || decoder.isOwn(entries[0]) {
            // The cluster stays where it is; in an external data file that is where the guest
            // has it.
            return Placement(
                range: ByteRange(offset: start, lengthBytes: geometry.clusterBytes),
                old: [entries[0]], host: header.hasDataFile ? start : entries[0].host, fresh: nil)
        }
        let count = entries.firstIndex { decoder.isOwn($0) } ?? entries.count
        let run = try await writableAllocator("write").take(upTo: UInt64(count))
        let bytes = geometry.bytes(of: run)
        return Placement(
            range: ByteRange(offset: start, lengthBytes: bytes.lengthBytes),
            old: Array(entries[..<Int(run.count)]), host: bytes.offset, fresh: run)
    }

    /// `part` with what must be copied around it: up to whole clusters, or only subclusters where
    /// the rest of the cluster can stay as it is.
    private func grown(_ part: ByteRange, _ placement: Placement) -> ByteRange {
        func grain(_ entry: L2Entry) -> UInt64 {
            cache.decoder.isForeign(entry) ? geometry.clusterBytes : geometry.unitBytes
        }
        let count = Int(geometry.clusters(for: part.end - placement.range.offset))
        return ByteRange(
            offset: part.offset.alignedDown(to: grain(placement.old[0])),
            end: min(part.end.alignedUp(to: grain(placement.old[count - 1])), lengthBytes))
    }

    /// Writes `source`, which is for `part`, to its place, and the old content of `outer` around it.
    private func fill(
        _ outer: ByteRange, _ placement: Placement, with source: BufferSlice, for part: ByteRange
    ) async throws(BlockError) {
        let before = ByteRange(offset: outer.offset, end: part.offset)
        let after = ByteRange(offset: part.end, end: outer.end)
        let host = ByteRange(
            offset: placement.host + (outer.offset - placement.range.offset),
            lengthBytes: outer.lengthBytes)
        var old: BufferSlice?
        var isZero = try await isMappedToZeroes(outer, placement)
        if !isZero && outer.lengthBytes <= 2 * geometry.clusterBytes {
            // What must be copied has to be read, and may turn out to be zeroes.
            let content = BufferPool.shared.take(Int(outer.lengthBytes))
                .prefix(Int(outer.lengthBytes))
            try await readMapped(at: outer.offset, into: content)
            isZero = content.readOnlyBytes.isAllZero
            old = content
        }
        if isZero && placement.fresh == nil {
            isZero = try await pool.run { [dataFile] () throws(BlockError) in
                try dataFile.isZero(host)
            }
        }
        if isZero {
            // Nothing to lose, and nothing to copy.
            try await pool.run { [dataFile] () throws(BlockError) in
                try dataFile.write(
                    at: host.offset + before.lengthBytes, from: source.readOnlyBytes)
            }
            return
        }
        var whole = source
        if !before.isEmpty || !after.isEmpty {
            whole =
                old
                ?? BufferPool.shared.take(Int(outer.lengthBytes)).prefix(
                    Int(outer.lengthBytes))
            if old == nil {
                try await readMapped(
                    at: before.offset, into: whole.slice(0, Int(before.lengthBytes)))
                try await readMapped(
                    at: after.offset,
                    into: whole.slice(Int(part.end - outer.offset), Int(after.lengthBytes)))
            }
            whole.slice(Int(before.lengthBytes), source.count).bytes
                .copyMemory(from: source.readOnlyBytes)
        }
        try await pool.run { [dataFile, whole] () throws(BlockError) in
            try dataFile.writeDurably(at: host.offset, from: whole.readOnlyBytes)
        }
    }

    /// Whether the mapping says that the guest sees nothing but zeroes in `range`.
    private func isMappedToZeroes(
        _ range: ByteRange, _ placement: Placement
    ) async throws(BlockError) -> Bool {
        let isEmpty = placement.old.allSatisfy { $0 == .unallocated }
        if isEmpty && bytesInBacking(range) == 0 { return true }
        let extents = try await extents(in: range, limit: 64)
        return extents.allSatisfy(\.isZero) && extents.last?.range.end == range.end
    }

    /// The entries that map the clusters of `placement` once the bytes of `outer` are stored there.
    private func newEntries(_ placement: Placement, storing outer: ByteRange) -> [L2Entry] {
        placement.old.enumerated().map { index, old in
            let offset = UInt64(index) << UInt64(geometry.clusterBits)
            let host = placement.host + offset
            let cluster = ByteRange(
                offset: placement.range.offset + offset, lengthBytes: geometry.clusterBytes)
            guard geometry.hasSubclusters, !cache.decoder.isForeign(old) else {
                return .own(host, units: geometry.hasSubclusters ? L2Entry.allStored : 0)
            }
            let stored = units(of: outer.intersection(cluster), in: cluster)
            var entry = L2Entry.own(
                host, units: (old.units | stored) & ~(stored << 32))
            if placement.fresh != nil {
                // The rest of the cluster is zero: it may as well be stored where it reads so.
                let zero = entry.units >> 32
                entry.units = (entry.units | zero) & L2Entry.allStored
                if bytesInBacking(cluster) == 0 { entry.units = L2Entry.allStored }
            }
            return entry
        }
    }

    /// The subclusters of `cluster` that `range`, a part of it, covers; the last one of the image
    /// in part.
    func units(of range: ByteRange, in cluster: ByteRange) -> UInt64 {
        let first = (range.offset - cluster.offset) >> UInt64(geometry.unitBits)
        let end =
            (range.end - cluster.offset).alignedUp(to: geometry.unitBytes)
            >> UInt64(geometry.unitBits)
        return (1 << end) - (1 << first)
    }
}

package import BlockCore
import Glibc

// Zeroes and discards. Whole clusters change the mapping alone, or with subclusters whole
// subclusters do; where a place is kept it is zeroed as well, at once: zeroes are what the guest
// asked for, whether the mapping that says so reaches the medium before or after them.

extension Qcow2Device {
    /// What becomes of clusters that are to read as zeroes.
    enum Zeroing {
        /// Storage is kept, and zeroed where it is.
        case inPlace
        /// Storage is given back.
        case unmap
        /// Storage is given back; what has none may stay as it is.
        case discard
    }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        mayUnmap && !isReadOnly && canBeZero
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try checkWritable(range, "write zeroes")
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            try await zero(range, mayUnmap ? .unmap : .inPlace)
        }
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkWritable(range, "discard")
        let whole = split(range, unitBytes: geometry.unitBytes).whole
        guard !whole.isEmpty, canBeZero else { return }
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            try await zero(whole, .discard)
        }
    }

    /// `writeZeroes` or `discard` on the pool, of a prepared image.
    func zero(_ range: ByteRange, _ zeroing: Zeroing) async throws(BlockError) {
        let (head, whole, tail) = split(range, unitBytes: geometry.clusterBytes)
        for edge in [head, tail] where !edge.isEmpty { try await zeroEdge(edge, zeroing) }
        try await allocator?.flushIfDue()
        if canBeZero {
            try await zeroClusters(whole, zeroing)
        } else {
            try await writeZeroBytes(whole)
        }
    }

    /// Whether a cluster can read as zeroes without storage. In version 2 only an unallocated one
    /// does, and that shows the backing device.
    private var canBeZero: Bool { header.version >= 3 || backing == nil }

    /// Zeroes a part of one cluster.
    private func zeroEdge(_ edge: ByteRange, _ zeroing: Zeroing) async throws(BlockError) {
        guard geometry.hasSubclusters else { return try await zeroPart(edge) }
        let (head, units, tail) = split(edge, unitBytes: geometry.unitBytes)
        try await zeroPart(head)
        try await zeroPart(tail)
        guard !units.isEmpty, !(try await zeroUnits(units, zeroing)) else { return }
        if zeroing != .discard { try await zeroPart(units) }
    }

    /// Makes a part of one cluster read as zeroes by writing them.
    private func zeroPart(_ range: ByteRange) async throws(BlockError) {
        guard !range.isEmpty else { return }
        let extents = try await extents(in: range, limit: 8)
        if extents.allSatisfy(\.isZero), extents.last?.range.end == range.end { return }
        try await writeZeroBytes(range)
    }

    private func writeZeroBytes(_ range: ByteRange) async throws(BlockError) {
        guard !range.isEmpty else { return }
        let countMax = min(range.lengthBytes, 1 << 20)
        let zeroes = BufferPool.shared.take(Int(countMax)).prefix(Int(countMax))
        memset(zeroes.bytes.baseAddress!, 0, zeroes.count)
        var position = range.offset
        while position < range.end {
            let count = min(range.end - position, countMax)
            try await write(at: position, from: zeroes.slice(0, Int(count)))
            position += count
        }
    }

    /// Zeroes whole subclusters of one cluster. Returns false if its content is elsewhere and must
    /// be copied first.
    private func zeroUnits(
        _ range: ByteRange, _ zeroing: Zeroing
    ) async throws(BlockError) -> Bool {
        let start = range.offset.alignedDown(to: geometry.clusterBytes)
        let cluster = ByteRange(offset: start, lengthBytes: geometry.clusterBytes)
        return try await clusters.withLock(cluster) { () async throws(BlockError) -> Bool in
            let isHidden = bytesInBacking(range) == 0 || zeroing == .discard
            if isHidden && cache.l1Entry(geometry.l1Index(of: start)) == 0 { return true }
            let old = try await entry(at: start)
            if cache.decoder.isForeign(old) { return false }
            try await makeTableOwn(geometry.l1Index(of: start))
            let mask = units(of: range, in: cluster)
            var new = old
            if cache.decoder.isOwn(old) {
                let host = old.host + (range.offset - start)
                try await zeroStorage(
                    ByteRange(offset: host, lengthBytes: range.lengthBytes), zeroing)
                if zeroing == .inPlace {
                    new.units |= (mask & ~old.units) << 32
                } else {
                    new.units = old.units & ~mask | mask << 32
                }
            } else if !isHidden {
                new.units |= mask << 32
            }
            if new != old {
                try await pool.run { [cache, new] () throws(BlockError) in
                    try cache.setEntries([new], from: start)
                }
            }
            return true
        }
    }

    private func zeroClusters(
        _ range: ByteRange, _ zeroing: Zeroing
    ) async throws(BlockError) {
        let allocator = try writableAllocator("write zeroes")
        var position = range.offset
        while position < range.end {
            let piece = ByteRange(
                offset: position, end: min(range.end, tableEnd(after: position)))
            position = piece.end
            try await clusters.withLock(piece.alignedOutward(to: geometry.clusterBytes)) {
                () async throws(BlockError) in
                try await zeroInTable(piece, zeroing, allocator)
            }
            try await allocator.flushIfDue()
        }
    }

    /// Zeroes clusters of one L2 table, which are locked.
    private func zeroInTable(
        _ piece: ByteRange, _ zeroing: Zeroing, _ allocator: ClusterAllocator
    ) async throws(BlockError) {
        let l1Index = geometry.l1Index(of: piece.offset)
        // The raw data file must read like the image, whatever the mapping says.
        if header.hasRawDataFile { try await zeroStorage(piece, zeroing) }
        let isHidden = bytesInBacking(piece) == 0 || zeroing == .discard
        if cache.l1Entry(l1Index) == 0 && isHidden { return }
        let count = Int(geometry.clusters(for: piece.lengthBytes))
        let old = try await pool.run { [cache] () throws(BlockError) in
            try cache.entries(from: piece.offset, count: count)
        }
        try await makeTableOwn(l1Index)
        var new = old
        var freed: [ClusterRun] = []
        for (index, entry) in old.enumerated() {
            if entry == .unallocated && isHidden { continue }
            if cache.decoder.isOwn(entry) && (zeroing == .inPlace || header.hasDataFile) {
                try await zeroStorage(
                    ByteRange(offset: entry.host, lengthBytes: geometry.clusterBytes), zeroing)
                new[index] = zeroed(entry, keepingStored: zeroing == .inPlace)
                continue
            }
            if zeroing == .inPlace && reads(entry, asZeroesIfHidden: isHidden) { continue }
            if geometry.hasSubclusters {
                new[index] = L2Entry(word: 0, units: backing != nil ? L2Entry.allZero : 0)
            } else {
                new[index] = L2Entry(word: backing != nil ? Qcow2Layout.zero : 0)
            }
            if new[index] != entry, let run = cache.decoder.storage(of: entry) {
                freed.appendMerging(run)
            }
        }
        guard let first = old.indices.first(where: { old[$0] != new[$0] }),
            let last = old.indices.last(where: { old[$0] != new[$0] })
        else { return }
        let changed = Array(new[first...last])
        try await pool.run { [cache, geometry] () throws(BlockError) in
            try cache.setEntries(
                changed, from: piece.offset + UInt64(first) << UInt64(geometry.clusterBits))
        }
        allocator.free(freed)
    }

    /// The entry of a cluster whose own place was zeroed.
    private func zeroed(_ entry: L2Entry, keepingStored: Bool) -> L2Entry {
        var new = entry
        if geometry.hasSubclusters {
            let stored = keepingStored ? entry.units & L2Entry.allStored : 0
            new.units = stored | (L2Entry.allStored & ~stored) << 32
        } else if !keepingStored {
            new.word |= Qcow2Layout.zero
        }
        return new
    }

    /// Whether a cluster that has no place of its own reads as zeroes already.
    private func reads(_ entry: L2Entry, asZeroesIfHidden isHidden: Bool) -> Bool {
        if entry.isCompressed { return false }
        if !geometry.hasSubclusters { return entry.word & Qcow2Layout.zero != 0 }
        return !cache.decoder.isForeign(entry) && entry.units == L2Entry.allZero
    }

    private func zeroStorage(_ range: ByteRange, _ zeroing: Zeroing) async throws(BlockError) {
        try await pool.run { [dataFile] () throws(BlockError) in
            try dataFile.writeZeroes(range, mayUnmap: zeroing != .inPlace)
        }
    }

    /// The L2 entry of the cluster at `start`.
    private func entry(at start: UInt64) async throws(BlockError) -> L2Entry {
        try await pool.run { [cache] () throws(BlockError) in
            try cache.entries(from: start, count: 1)[0]
        }
    }
}

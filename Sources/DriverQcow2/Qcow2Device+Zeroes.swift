package import BlockCore
import Glibc

extension Qcow2Device {
    /// What becomes of clusters that are to read as zeroes.
    private enum Zeroing {
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
            let (head, whole, tail) = split(range)
            try await zeroPart(head)
            try await zeroPart(tail)
            if canBeZero {
                try await zeroClusters(whole, mayUnmap ? .unmap : .inPlace)
            } else {
                try await writeZeroBytes(whole)
            }
        }
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkWritable(range, "discard")
        let whole = split(range).whole
        guard !whole.isEmpty, canBeZero else { return }
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            try await zeroClusters(whole, .discard)
        }
    }

    /// Whether a cluster can read as zeroes without storage. In version 2 only an unallocated one
    /// does, and that shows the backing device.
    private var canBeZero: Bool { header.version >= 3 || backing == nil }

    /// Makes a part of one cluster read as zeroes.
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

    private func zeroClusters(_ range: ByteRange, _ zeroing: Zeroing) async throws(BlockError) {
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
            if allocator.wantsFlush { try await allocator.flush() }
        }
    }

    /// Zeroes clusters of one L2 table, which are locked.
    private func zeroInTable(
        _ piece: ByteRange, _ zeroing: Zeroing, _ allocator: ClusterAllocator
    ) async throws(BlockError) {
        let l1Index = geometry.l1Index(of: piece.offset)
        let hasBacking = bytesInBacking(piece) > 0
        if cache.l1Entry(l1Index) == 0 && (!hasBacking || zeroing == .discard) { return }
        try await makeTableOwn(l1Index)
        let count = Int(geometry.clusters(for: piece.lengthBytes))
        let old = try await pool.run { [cache] () throws(BlockError) in
            try cache.entries(from: piece.offset, count: count)
        }
        var new = old
        var freed: [ClusterRun] = []
        for (index, entry) in old.enumerated() {
            if entry == 0 && (!hasBacking || zeroing == .discard) { continue }
            let isZero = entry & (Qcow2Layout.zero | Qcow2Layout.compressed) == Qcow2Layout.zero
            if isZero && zeroing == .inPlace { continue }
            if zeroing == .inPlace && isOwnData(entry) {
                let host = entry & Qcow2Layout.offsetMask
                try await pool.run { [file, geometry] () throws(BlockError) in
                    try file.writeZeroes(
                        ByteRange(offset: host, lengthBytes: geometry.clusterBytes),
                        mayUnmap: false)
                }
                continue
            }
            new[index] = backing != nil ? Qcow2Layout.zero : 0
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

    private func isOwnData(_ entry: UInt64) -> Bool {
        entry & Qcow2Layout.copied != 0
            && entry & (Qcow2Layout.compressed | Qcow2Layout.zero) == 0
    }
}

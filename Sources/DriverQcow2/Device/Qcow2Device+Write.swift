package import BlockCore
import Synchronization

extension Qcow2Device {
    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkWritable(range, "write")
        if range.isEmpty { return true }
        guard isPrepared.load(ordering: .acquiring) else { return false }
        var runs = RunList()
        let use = try cache.begin(range, into: &runs)
        defer { cache.end(use) }
        guard runs.lengthBytes == range.lengthBytes else { return false }
        for index in 0..<runs.count where runs[index].kind != .data { return false }
        var done = 0
        for index in 0..<runs.count {
            let count = Int(runs[index].lengthBytes)
            try file.write(
                at: runs[index].host,
                from: UnsafeRawBufferPointer(rebasing: source[done..<done + count]))
            done += count
        }
        return true
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            var done = 0
            while done < source.count {
                let position = offset + UInt64(done)
                let count = Int(
                    min(UInt64(source.count - done), tableEnd(after: position) - position))
                try await writeInTable(at: position, from: source.slice(done, count))
                done += count
            }
        }
    }

    /// Cuts `range` into whole clusters and, around them, parts of one cluster each. The last
    /// cluster of the image is whole where the image ends.
    func split(_ range: ByteRange) -> (head: ByteRange, whole: ByteRange, tail: ByteRange) {
        var whole = range.alignedInward(to: geometry.clusterBytes)
        if range.end == lengthBytes { whole = ByteRange(offset: whole.offset, end: lengthBytes) }
        if whole.isEmpty {
            let boundary = min(range.offset.alignedUp(to: geometry.clusterBytes), range.end)
            whole = ByteRange(offset: boundary, end: boundary)
        }
        return (
            ByteRange(offset: range.offset, end: whole.offset), whole,
            ByteRange(offset: whole.end, end: range.end)
        )
    }

    /// The end of the guest bytes that the L2 table of `offset` maps.
    func tableEnd(after offset: UInt64) -> UInt64 {
        UInt64(geometry.l1Index(of: offset) + 1) << UInt64(geometry.l2CoverBits)
    }

    /// Clears the autoclear features, all unknown here, before guest data first changes: their
    /// owners' data, such as QEMU's bitmaps, no longer describes the image then.
    func prepare() async throws(BlockError) {
        if isPrepared.load(ordering: .acquiring) { return }
        try await tables.withLock { () async throws(BlockError) in
            if isPrepared.load(ordering: .acquiring) { return }
            try await pool.run { [file] () throws(BlockError) in
                try file.writeNumbers(
                    [0], at: UInt64(Qcow2Layout.Field.autoclear), durably: true)
            }
            isPrepared.store(true, ordering: .releasing)
        }
    }

    /// Writes what one L2 table maps: without a lock as far as it is mapped, then with one.
    private func writeInTable(
        at offset: UInt64, from source: BufferSlice
    ) async throws(BlockError) {
        let done = try await writeInPlace(at: offset, from: source)
        guard done < source.count else { return }
        let rest = ByteRange(
            offset: offset + UInt64(done), lengthBytes: UInt64(source.count - done))
        try await clusters.withLock(rest.alignedOutward(to: geometry.clusterBytes)) {
            () async throws(BlockError) in
            var done = done
            while done < source.count {
                let part = source.slice(done, source.count - done)
                done += try await writeInPlace(at: offset + UInt64(done), from: part)
                guard done < source.count else { return }
                done += try await allocateAndWrite(
                    at: offset + UInt64(done), from: source.slice(done, source.count - done))
            }
        }
    }

    /// Writes as much of `source`, from its start, as goes to clusters that may be written in
    /// place; returns how much.
    private func writeInPlace(
        at offset: UInt64, from source: BufferSlice
    ) async throws(BlockError) -> Int {
        var done = 0
        while done < source.count {
            let range = ByteRange(
                offset: offset + UInt64(done), lengthBytes: UInt64(source.count - done))
            var runs = RunList()
            let use = try cache.begin(range, into: &runs)
            defer { cache.end(use) }
            if runs.count == 0 { try await loadTable(for: range.offset) }
            for index in 0..<runs.count {
                let run = runs[index]
                guard run.kind == .data else { return done }
                let part = source.slice(done, Int(run.lengthBytes))
                try await pool.run { [file] () throws(BlockError) in
                    try file.write(at: run.host, from: part.readOnlyBytes)
                }
                done += part.count
            }
        }
        return done
    }

    /// Writes `source`, which begins in a cluster that needs a new place, as far as such clusters,
    /// and new places one after the other, reach; returns how far. The clusters are locked.
    private func allocateAndWrite(
        at offset: UInt64, from source: BufferSlice
    ) async throws(BlockError) -> Int {
        let allocator = try writableAllocator("write")
        let request = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        let start = offset.alignedDown(to: geometry.clusterBytes)
        try await makeTableOwn(geometry.l1Index(of: offset))
        let old = try await replaceableEntries(
            from: start, countMax: Int(geometry.clusters(for: request.end - start)))
        let run = try await allocator.take(upTo: UInt64(old.count))
        let host = run.first << UInt64(geometry.clusterBits)
        let covered = ByteRange(
            offset: start, lengthBytes: run.count << UInt64(geometry.clusterBits))
        let part = request.intersection(covered)
        do throws(BlockError) {
            try await fill(
                covered, at: host, with: source.slice(0, Int(part.lengthBytes)), for: part)
        } catch {
            allocator.free([run])
            throw error
        }
        let entries = (0..<run.count).map {
            (host + $0 << UInt64(geometry.clusterBits)) | Qcow2Layout.copied
        }
        try await pool.run { [cache] () throws(BlockError) in
            try cache.setEntries(entries, from: start)
        }
        allocator.free(old[..<Int(run.count)].compactMap { cache.decoder.storage(of: $0) })
        return Int(part.lengthBytes)
    }

    /// The entries from the one of `start` on that do not allow writing in place, `countMax` at
    /// most. The first one is known not to.
    private func replaceableEntries(
        from start: UInt64, countMax: Int
    ) async throws(BlockError) -> [UInt64] {
        let entries = try await pool.run { [cache] () throws(BlockError) in
            try cache.entries(from: start, count: countMax)
        }
        let inPlace = Qcow2Layout.copied
        let count = entries.firstIndex {
            $0 & inPlace != 0 && $0 & (Qcow2Layout.compressed | Qcow2Layout.zero) == 0
        }
        return Array(entries[..<(count ?? entries.count)])
    }

    /// Writes `source` to the new clusters at `host` that are to hold `covered`, where it is for
    /// `part`, and the old content around it. New clusters read as zeroes.
    private func fill(
        _ covered: ByteRange, at host: UInt64, with source: BufferSlice, for part: ByteRange
    ) async throws(BlockError) {
        let (head, whole, tail) = split(part)
        func slice(_ range: ByteRange) -> BufferSlice {
            source.slice(Int(range.offset - part.offset), Int(range.lengthBytes))
        }
        for piece in [head, tail] where !piece.isEmpty {
            let cluster = piece.offset.alignedDown(to: geometry.clusterBytes)
            try await fillCluster(
                cluster, at: host + (cluster - covered.offset), with: slice(piece), for: piece)
        }
        guard !whole.isEmpty else { return }
        let middle = slice(whole)
        try await pool.run { [file] () throws(BlockError) in
            try file.write(at: host + (whole.offset - covered.offset), from: middle.readOnlyBytes)
        }
    }

    /// Writes `source`, a part of the guest cluster that begins at `start`, to its new place at
    /// `host`, with what the cluster held before around it.
    private func fillCluster(
        _ start: UInt64, at host: UInt64, with source: BufferSlice, for piece: ByteRange
    ) async throws(BlockError) {
        let end = min(start + geometry.clusterBytes, lengthBytes)
        let content = BufferPool.shared.take(Int(end - start)).prefix(Int(end - start))
        try await readMapped(at: start, into: content)
        let inCluster = Int(piece.offset - start)
        let isNew = content.readOnlyBytes.isAllZero
        try await pool.run { [file] () throws(BlockError) in
            if isNew {
                try file.write(at: host + UInt64(inCluster), from: source.readOnlyBytes)
                return
            }
            content.slice(inCluster, source.count).bytes.copyMemory(from: source.readOnlyBytes)
            // The old content was durable where it was: it must not be lost with this write.
            try file.writeDurably(at: host, from: content.readOnlyBytes)
        }
    }
}

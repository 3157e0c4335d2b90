package import BlockCore
import Synchronization

extension Qcow2Device {
    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkWritable(range, "write")
        if range.isEmpty { return true }
        guard isPrepared.load(ordering: .acquiring), !damage.isFound else { return false }
        var runs = RunList()
        let use = try cache.begin(range, into: &runs)
        defer { cache.end(use) }
        guard runs.lengthBytes == range.lengthBytes else { return false }
        for index in 0..<runs.count where runs[index].kind != .data { return false }
        var done = 0
        for index in 0..<runs.count {
            let count = Int(runs[index].lengthBytes)
            try dataFile.write(
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
                try await allocator?.flushIfDue()
                done += count
            }
        }
    }

    /// Cuts `range` into whole units of `unitBytes`, clusters or subclusters, and parts of one unit
    /// each around them. The last unit of the image is whole where the image ends.
    func split(
        _ range: ByteRange, unitBytes: UInt64
    ) -> (head: ByteRange, whole: ByteRange, tail: ByteRange) {
        var whole = range.alignedInward(to: unitBytes)
        if range.end == lengthBytes { whole = ByteRange(offset: whole.offset, end: lengthBytes) }
        if whole.isEmpty {
            let boundary = min(range.offset.alignedUp(to: unitBytes), range.end)
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
                try await pool.run { [dataFile] () throws(BlockError) in
                    try dataFile.write(at: run.host, from: part.readOnlyBytes)
                }
                done += part.count
            }
        }
        return done
    }
}

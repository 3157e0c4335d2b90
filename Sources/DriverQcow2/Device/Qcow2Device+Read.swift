package import BlockCore
import Glibc
import Synchronization

extension Qcow2Device {
    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try checkInside(range, "read")
        if range.isEmpty { return .done }
        var runs = RunList()
        let use = try cache.begin(range, into: &runs)
        defer { cache.end(use) }
        guard runs.lengthBytes == range.lengthBytes else { return .refused }
        var done = 0
        for index in 0..<runs.count {
            let run = runs[index]
            let part = UnsafeMutableRawBufferPointer(
                rebasing: destination[done..<done + Int(run.lengthBytes)])
            switch try tryRead(run, at: offset + UInt64(done), into: part) {
            case .done: done += part.count
            case .begun(let doneBytes): return .begun(doneBytes: done + doneBytes)
            case .refused: return .refused
            }
        }
        return .done
    }

    private func tryRead(
        _ run: MappedRun, at offset: UInt64, into part: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        switch run.kind {
        case .data, .sharedData:
            guard canReadNow.load(ordering: .relaxed) else { return .refused }
            let attempt = try dataFile.readNow(at: run.host, into: part)
            if attempt == .refused { canReadNow.store(false, ordering: .relaxed) }
            return attempt
        case .zero:
            memset(part.baseAddress!, 0, part.count)
            return .done
        case .unallocated:
            let held = bytesInBacking(ByteRange(offset: offset, lengthBytes: run.lengthBytes))
            if held > 0, let backing {
                let below = UnsafeMutableRawBufferPointer(rebasing: part[..<held])
                let attempt = try backing.tryRead(at: offset, into: below)
                guard attempt == .done else { return attempt }
            }
            if held < part.count { memset(part.baseAddress! + held, 0, part.count - held) }
            return .done
        case .compressed: return .refused
        }
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await readMapped(at: offset, into: destination)
        }
    }

    /// `read` on the pool, where blocking is allowed.
    func readMapped(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        var done = 0
        while done < destination.count {
            let range = ByteRange(
                offset: offset + UInt64(done), lengthBytes: UInt64(destination.count - done))
            var runs = RunList()
            let use = try cache.begin(range, into: &runs)
            defer { cache.end(use) }
            if runs.count == 0 {
                try await loadTable(for: range.offset)
                continue
            }
            for index in 0..<runs.count {
                let run = runs[index]
                let part = destination.slice(done, Int(run.lengthBytes))
                try await read(run, at: offset + UInt64(done), into: part)
                done += part.count
            }
        }
    }

    /// Reads the L2 table that maps `guestOffset` into the cache.
    func loadTable(for guestOffset: UInt64) async throws(BlockError) {
        try await pool.run { [cache] () throws(BlockError) in
            try cache.load(cache.geometry.l1Index(of: guestOffset))
        }
    }

    private func read(
        _ run: MappedRun, at offset: UInt64, into part: BufferSlice
    ) async throws(BlockError) {
        switch run.kind {
        case .data, .sharedData:
            try await pool.run { [dataFile] () throws(BlockError) in
                try dataFile.read(at: run.host, into: part.bytes)
            }
        case .zero:
            memset(part.bytes.baseAddress!, 0, part.count)
        case .unallocated:
            let held = bytesInBacking(ByteRange(offset: offset, lengthBytes: run.lengthBytes))
            if held > 0, let backing {
                try await backing.read(at: offset, into: part.slice(0, held))
            }
            if held < part.count {
                memset(part.bytes.baseAddress! + held, 0, part.count - held)
            }
        case .compressed:
            try await pool.run { [self] () throws(BlockError) in
                try unpack(run.host, at: offset, into: part)
            }
        }
    }

    /// How many bytes from the start of `range` the backing device has; it may be the shorter one.
    func bytesInBacking(_ range: ByteRange) -> Int {
        guard let backing else { return 0 }
        return Int(
            ByteRange(offset: range.offset, end: min(range.end, backing.lengthBytes)).lengthBytes)
    }

    private func unpack(
        _ entry: UInt64, at offset: UInt64, into part: BufferSlice
    ) throws(BlockError) {
        let packed = CompressedCluster(file: file, header: header)
        let clusterBytes = Int(geometry.clusterBytes)
        if part.count == clusterBytes { return try packed.read(entry, into: part.bytes) }
        let whole = BufferPool.shared.take(clusterBytes).prefix(clusterBytes)
        try packed.read(entry, into: whole.bytes)
        let inCluster = Int(offset & (geometry.clusterBytes - 1))
        part.bytes.copyMemory(from: whole.slice(inCluster, part.count).readOnlyBytes)
    }
}

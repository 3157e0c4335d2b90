package import BlockCore

extension Qcow2Device {
    /// A cluster's compressed form, on its way to the file.
    private struct Packed {
        let index: Int
        let form: BufferSlice
    }

    /// Writes `source` at `offset`, both of whole clusters or up to the end of the image, in
    /// compressed form. A cluster that does not get shorter is written as it is.
    ///
    /// For images that are filled once: writing to a compressed cluster again unpacks it. The
    /// clusters of one call share host clusters, so larger calls take less room.
    package func writeCompressed(
        at offset: UInt64, from source: BufferSlice
    ) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkWritable(range, "write compressed")
        guard split(range, unitBytes: geometry.clusterBytes).whole == range else {
            throw BlockError(
                .invalid, "write compressed", on: nodeName, range: range,
                detail: "only whole clusters of \(geometry.clusterBytes) bytes are compressed")
        }
        guard !header.hasDataFile else { return try await write(at: offset, from: source) }
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            let packed = try await pool.run { [self] () throws(BlockError) in
                try pack(source)
            }
            for (index, form) in packed.enumerated() where form == nil {
                let part = cluster(index, of: source)
                try await write(at: offset + UInt64(index) * geometry.clusterBytes, from: part)
            }
            var rest = packed.enumerated().compactMap { index, form in
                form.map { Packed(index: index, form: $0) }
            }[...]
            while !rest.isEmpty {
                try await store(&rest, from: offset)
                try await allocator?.flushIfDue()
            }
        }
    }

    private func cluster(_ index: Int, of source: BufferSlice) -> BufferSlice {
        let start = index * Int(geometry.clusterBytes)
        return source.slice(start, min(Int(geometry.clusterBytes), source.count - start))
    }

    /// The compressed form of each cluster of `source`; nil for those that do not get shorter.
    private func pack(_ source: BufferSlice) throws(BlockError) -> [BufferSlice?] {
        let clusterBytes = Int(geometry.clusterBytes)
        let compressor = try ClusterCompressor(header.compression, clusterBytes: clusterBytes)
        let space = BufferPool.shared.take(clusterBytes).prefix(clusterBytes)
        var result: [BufferSlice?] = []
        for index in 0..<(source.count + clusterBytes - 1) / clusterBytes {
            let part = cluster(index, of: source).padded(to: clusterBytes)
            guard let count = compressor.pack(part.readOnlyBytes, into: space.bytes) else {
                result.append(nil)
                continue
            }
            let form = BufferPool.shared.take(count).prefix(count)
            form.bytes.copyMemory(from: space.slice(0, count).readOnlyBytes)
            result.append(form)
        }
        return result
    }

    /// Stores as many of `rest` as one run of host clusters takes, and maps them.
    private func store(
        _ rest: inout ArraySlice<Packed>, from offset: UInt64
    ) async throws(BlockError) {
        let allocator = try writableAllocator("write compressed")
        let needed = rest.reduce(0) { $0 + UInt64($1.form.count) }
        let run = try await allocator.take(upTo: geometry.clusters(for: needed))
        let space = geometry.bytes(of: run)
        do throws(BlockError) {
            try CompressedLocation.check(
                space, clusterBits: geometry.clusterBits, on: nodeName)
        } catch {
            allocator.free([run])
            throw error
        }
        // What fits is decided by the room, and by how many references a cluster can have.
        var counts = [UInt64](repeating: 0, count: Int(run.count))
        var position = space.offset
        var stored: [(Packed, entry: UInt64)] = []
        while let next = rest.first {
            let entry = CompressedLocation.entry(
                offset: position, packedBytes: next.form.count, clusterBits: geometry.clusterBits)
            let location = CompressedLocation(entry: entry, clusterBits: geometry.clusterBits)
            guard location.range.end <= space.end else { break }
            let touched = geometry.clusters(of: location.range)
            let places = Int(touched.first - run.first)..<Int(touched.end - run.first)
            if counts[places].contains(where: { $0 >= allocator.countMax }) {
                // Nothing more goes into this cluster.
                position = (touched.first + 1) << UInt64(geometry.clusterBits)
                if position >= space.end { break }
                continue
            }
            for place in places { counts[place] += 1 }
            stored.append((next, entry))
            position += UInt64(next.form.count)
            rest.removeFirst()
        }
        try await write(stored, run: run, counts: counts, allocator)
        for (packed, entry) in stored {
            let start = offset + UInt64(packed.index) * geometry.clusterBytes
            try await map(L2Entry(word: entry), at: start, allocator)
        }
    }

    private func write(
        _ stored: [(Packed, entry: UInt64)], run: ClusterRun, counts: [UInt64],
        _ allocator: ClusterAllocator
    ) async throws(BlockError) {
        if counts.contains(where: { $0 > 1 }) {
            try await allocator.setCounts(counts.map { max($0, 1) }, from: run.first)
        }
        let space = geometry.bytes(of: run)
        let image = BufferPool.shared.take(Int(space.lengthBytes)).prefix(Int(space.lengthBytes))
        image.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        for (packed, entry) in stored {
            let location = CompressedLocation(entry: entry, clusterBits: geometry.clusterBits)
            let place = Int(location.offset - space.offset)
            image.slice(place, packed.form.count).bytes
                .copyMemory(from: packed.form.readOnlyBytes)
        }
        // Durably: part of a compressed form is no cluster at all.
        try await pool.run { [file] () throws(BlockError) in
            try file.writeDurably(at: space.offset, from: image.readOnlyBytes)
        }
        let unused = counts.enumerated().filter { $0.element == 0 }
        allocator.free(
            unused.map { ClusterRun(first: run.first + UInt64($0.offset), count: 1) })
    }

    private func map(
        _ entry: L2Entry, at start: UInt64, _ allocator: ClusterAllocator
    ) async throws(BlockError) {
        let cluster = ByteRange(offset: start, lengthBytes: geometry.clusterBytes)
        try await clusters.withLock(cluster) { () async throws(BlockError) in
            try await makeTableOwn(geometry.l1Index(of: start))
            let old = try await pool.run { [cache] () throws(BlockError) in
                let old = try cache.entries(from: start, count: 1)[0]
                try cache.setEntries([entry], from: start)
                return old
            }
            if let run = cache.decoder.storage(of: old) { allocator.free([run]) }
        }
    }
}

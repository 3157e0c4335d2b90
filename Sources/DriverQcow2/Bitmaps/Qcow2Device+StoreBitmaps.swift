package import BlockCore

// How an image that is about to be closed comes to list bitmaps that QEMU takes for true.
//
//   1  bits, tables and the new list go to clusters of their own, durably
//   2  the feature bit is cleared: from here on no list counts, the old one included
//   3  the header names the new list
//   4  the feature bit is set: the new list counts
//   5  the clusters of the old list are given back
//
// Each of 2, 3 and 4 is durable before the next. A crash leaves the old list, none, or the new one,
// and clusters that count as used and are not: leaks.

/// A dirty bitmap on its way into an image.
package struct Qcow2BitmapSource: Sendable {
    package var name: String
    package var granularityBytes: UInt64
    /// Whether it records writes when QEMU opens the image.
    package var isAutomatic: Bool
    /// How many bytes its bits take, in whole 64-bit words.
    package var lengthBytes: UInt64
    /// Fills its second argument with the bits from the byte on that the first one says: the first
    /// granule in the lowest bit of the first byte, zeroes beyond the end. In whole 64-bit words.
    package var read: @Sendable (UInt64, UnsafeMutableRawBufferPointer) -> Void

    package init(
        name: String, granularityBytes: UInt64, isAutomatic: Bool, lengthBytes: UInt64,
        read: @escaping @Sendable (UInt64, UnsafeMutableRawBufferPointer) -> Void
    ) {
        self.name = name
        self.granularityBytes = granularityBytes
        self.isAutomatic = isAutomatic
        self.lengthBytes = lengthBytes
        self.read = read
    }
}

extension Qcow2Device {
    /// Has the image list `sources` and no other bitmaps, durably. Guest data must not change after
    /// that: nothing may be in flight or follow but `close`. Version 3 only.
    package func storeBitmaps(_ sources: [Qcow2BitmapSource]) async throws(BlockError) {
        guard header.version >= 3 else {
            throw BlockError(
                .unsupported, "store bitmaps", on: nodeName,
                detail: "an image of version 2 has no place for them")
        }
        try damage.check("store bitmaps")
        let allocator = try writableAllocator("store bitmaps")
        let old = try await pool.run { [self] () throws(BlockError) in try storedBitmapRuns() }
        let list = try await storeList(sources, allocator)
        try await flush()
        try await tables.withLock { () async throws(BlockError) in
            try await pool.run { [self] () throws(BlockError) in
                try name(list, autoclear: header.keptAutoclear)
            }
        }
        allocator.free(old)
        try await flush()
    }

    /// Step 1. Returns nil for an empty list.
    private func storeList(
        _ sources: [Qcow2BitmapSource], _ allocator: ClusterAllocator
    ) async throws(BlockError) -> Qcow2BitmapDirectory? {
        guard !sources.isEmpty else { return nil }
        var directory: [UInt8] = []
        for source in sources {
            let table = try await storeBits(of: source, allocator)
            directory += Self.entry(of: source, tableOffset: table.offset, table.count)
        }
        let place = try await store(directory, allocator)
        return Qcow2BitmapDirectory(
            count: UInt32(sources.count), lengthBytes: UInt64(directory.count), offset: place)
    }

    /// Stores the clusters of a bitmap that have dirty bits, and the table of all.
    private func storeBits(
        of source: Qcow2BitmapSource, _ allocator: ClusterAllocator
    ) async throws(BlockError) -> (offset: UInt64, count: UInt32) {
        var table: [UInt64] = []
        var cluster = [UInt8](repeating: 0, count: Int(geometry.clusterBytes))
        for offset in stride(from: 0, to: source.lengthBytes, by: cluster.count) {
            let isClean = cluster.withUnsafeMutableBytes { cluster in
                source.read(offset, cluster)
                return UnsafeRawBufferPointer(cluster).isAllZero
            }
            table.append(isClean ? 0 : try await store(cluster, allocator))
        }
        var bytes = [UInt8](repeating: 0, count: table.count * 8)
        bytes.withUnsafeMutableBytes { bytes in
            for (index, entry) in table.enumerated() { bytes.storeBigEndian(entry, at: index * 8) }
        }
        return (try await store(bytes, allocator), UInt32(table.count))
    }

    /// Stores `bytes` in consecutive clusters of their own.
    private func store(
        _ bytes: [UInt8], _ allocator: ClusterAllocator
    ) async throws(BlockError) -> UInt64 {
        let count = (UInt64(bytes.count) + geometry.clusterBytes - 1) / geometry.clusterBytes
        let run = try await allocator.takeConsecutive(count)
        let offset = geometry.bytes(of: run).offset
        try await pool.run { [file] () throws(BlockError) in
            try bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: offset, from: bytes)
            }
        }
        return offset
    }

    private static func entry(
        of source: Qcow2BitmapSource, tableOffset: UInt64, _ tableCount: UInt32
    ) -> [UInt8] {
        let name = Array(source.name.utf8)
        var bytes = [UInt8](repeating: 0, count: (24 + name.count + 7) / 8 * 8)
        bytes.withUnsafeMutableBytes { bytes in
            bytes.storeBigEndian(tableOffset, at: 0)
            bytes.storeBigEndian(tableCount, at: 8)
            bytes.storeBigEndian(UInt32(source.isAutomatic ? 2 : 0), at: 12)
            bytes.storeBigEndian(UInt8(1), at: 16)
            bytes.storeBigEndian(UInt8(source.granularityBytes.trailingZeroBitCount), at: 17)
            bytes.storeBigEndian(UInt16(name.count), at: 18)
        }
        bytes.replaceSubrange(24..<24 + name.count, with: name)
        return bytes
    }

    /// Steps 2 to 4; with no list, the first alone.
    private func name(
        _ list: Qcow2BitmapDirectory?, autoclear: UInt64
    ) throws(BlockError) {
        let field = UInt64(Qcow2Layout.Field.autoclear)
        try file.writeNumbers([autoclear], at: field, durably: true)
        guard let list else { return }
        let area = try HeaderArea(file: file, header: header)
        try area.setBitmaps(list)
        try file.writeNumbers(
            [autoclear | Qcow2Layout.Autoclear.bitmaps], at: field, durably: true)
    }

    /// The clusters of the list that the image has now, and of what it names.
    private func storedBitmapRuns() throws(BlockError) -> [ClusterRun] {
        guard regions?.isBitmapDirectoryShared == false,
            let stored = try StoredBitmaps(file: file, header: StoredHeader(file: file))
        else { return [] }
        var ranges = [ByteRange(offset: stored.offset, lengthBytes: stored.lengthBytes)]
        for bitmap in stored.bitmaps {
            let tableBytes = UInt64(bitmap.tableCount) * 8
            ranges.append(ByteRange(offset: bitmap.tableOffset, lengthBytes: tableBytes))
            for entry in try file.readNumbers(Int(bitmap.tableCount), at: bitmap.tableOffset)
            where entry & Qcow2Layout.offsetMask != 0 {
                ranges.append(
                    ByteRange(
                        offset: entry & Qcow2Layout.offsetMask, lengthBytes: geometry.clusterBytes))
            }
        }
        return ranges.map(geometry.clusters(of:))
    }
}

package import BlockCore

// Writes an image from nothing in one pass, for backups.
//
// Clusters are handed out one after the other, so that every refcount is one and refcounts need no
// keeping: the data follows the header's cluster in order of arrival, then come the L2 tables, the
// L1 table, the refcount blocks and their table. The header is written last: until then the file
// is no image, so that a crash leaves nothing that could be taken for one.
//
//     header | data and, where memory asks for it, L2 tables … | L2 | L1 | refcount blocks | table

/// A new qcow2 image that is written once, by any number of tasks, and then finished.
///
/// After an error only `abandon` makes sense.
package final class Qcow2Writer: Sendable {
    private struct State {
        /// nil once finished or abandoned.
        var file: (any StorageFile)?
        var tables: WriterTables
        var nextCluster: UInt64 = 1
        var storedBytes: UInt64 = 0
        var writebackFrom: UInt64 = 0
        var refcounts = WriterRefcounts()
        /// Where the next compressed cluster goes, and the end of the room for it.
        var packPosition: UInt64 = 0
        var packLimit: UInt64 = 0
        var compressors: [ClusterCompressor] = []
    }

    /// Writeback begins this far behind the newest cluster, in pieces of this size: far enough for
    /// the writes of other tasks to have landed, near enough for the last flush to be short.
    private static let writebackBytes: UInt64 = 8 << 20

    private let path: String
    private let lengthBytes: UInt64
    let header: Qcow2Header
    private let isCompressing: Bool
    private let geometry: Qcow2Geometry
    private let pool: IOPool
    private let state: HostMutex<State>
    /// The kernel lets one write into a file at a time, and those that wait for it spin: better
    /// that they sleep here and leave the processor to those that read.
    private let turn = HostMutex(())

    /// Creates the file at `path`, which must not exist.
    ///
    /// - Parameters:
    ///   - lengthBytes: any length; the image's size is the next multiple of 512.
    ///   - clusterBytes: a power of two from 512 to 2 MiB.
    ///   - backing: written to the header as given; nothing is opened.
    ///   - compression: how clusters are compressed; nil to store them as they are.
    package convenience init(
        path: String, lengthBytes: UInt64, clusterBytes: UInt64, backing: Qcow2Backing?,
        compression: Qcow2Header.Compression? = nil, pool: IOPool = .background
    ) throws(BlockError) {
        try self.init(
            file: HostFile(path: path, access: .create), lengthBytes: lengthBytes,
            clusterBytes: clusterBytes, backing: backing, compression: compression, pool: pool)
    }

    /// Writes to `file`, which is empty.
    package convenience init(
        file: any StorageFile, lengthBytes: UInt64, clusterBytes: UInt64, backing: Qcow2Backing?,
        compression: Qcow2Header.Compression? = nil, pool: IOPool = .background
    ) throws(BlockError) {
        var options = Qcow2Options(clusterBytes: clusterBytes)
        options.compression = compression ?? .deflate
        try self.init(
            path: file.path, lengthBytes: lengthBytes, options: options, backing: backing,
            isCompressing: compression != nil, pool: pool, openFile: { file })
    }

    /// `openFile` is called once the options have been found good.
    init(
        path: String, lengthBytes: UInt64, options: Qcow2Options, backing: Qcow2Backing?,
        isCompressing: Bool, pool: IOPool, openFile: () throws(BlockError) -> any StorageFile
    ) throws(BlockError) {
        header = try options.header(path: path, lengthBytes: lengthBytes, backing: backing)
        _ = try header.encoded(on: path)
        geometry = header.geometry
        self.path = path
        self.lengthBytes = lengthBytes
        self.isCompressing = isCompressing
        self.pool = pool
        let file = try openFile()
        state = HostMutex(State(file: file, tables: WriterTables(geometry: geometry, file: file)))
    }

    /// The bytes that the data written so far takes in the file.
    package var storedBytes: UInt64 { state.withLock { $0.storedBytes } }

    /// Stores `source` at `guestOffset`, a multiple of the cluster size, as is its length unless it
    /// ends where the image does. Each cluster may be written once. If data cannot be written, `retry`
    /// returns to have that tried again, or throws.
    package func write(
        at guestOffset: UInt64, from source: BufferSlice,
        retry: (@Sendable (BlockError) async throws(BlockError) -> Void)? = nil
    ) async throws(BlockError) {
        let range = ByteRange(offset: guestOffset, lengthBytes: UInt64(source.count))
        try check(range, "write")
        var progress = Progress()
        while progress.doneBytes < source.count {
            let begun = progress
            let (reached, failure) = try await pool.run {
                [self] () throws(BlockError) -> (Progress, BlockError?) in
                var progress = begun
                do throws(BlockError) {
                    try write(source, at: guestOffset, &progress)
                    return (progress, nil)
                } catch {
                    guard progress.unwritten != nil else { throw error }
                    return (progress, error)
                }
            }
            progress = reached
            guard let failure else { return }
            guard let retry else { throw failure }
            try await retry(failure)
        }
    }

    /// How far a write has come.
    private struct Progress {
        var doneBytes = 0
        /// What has its place, but could not be written to it.
        var unwritten: PlacedData?
    }

    /// Data that has its place in the file, and in the tables.
    private struct PlacedData {
        let file: any StorageFile
        let host: UInt64
        let data: BufferSlice
        /// What it is of the source.
        let sourceBytes: Int
        let writeback: ByteRange?
    }

    /// Makes `range`, of whole clusters or up to the end, read as zeroes whatever the backing
    /// file holds. Without a backing file it does so anyway, and nothing is stored.
    package func writeZeroes(_ range: ByteRange) throws(BlockError) {
        try check(range, "write zeroes")
        guard header.backing != nil, !range.isEmpty else { return }
        try state.withLock { (state) throws(BlockError) in
            _ = try openFile(state)
            try state.tables.map(
                from: range.offset, count: Int(geometry.clusters(for: range.lengthBytes)),
                nextCluster: &state.nextCluster, entry: { _ in Qcow2Layout.zero })
        }
    }

    /// Writes the tables and, last, the header, and makes the whole file durable.
    package func finish() async throws(BlockError) {
        try await pool.run { [self] () throws(BlockError) in try finishBlocking() }
    }

    /// Closes the unfinished file, which the caller removes. No error if it is closed already.
    package func abandon() {
        state.withLock { $0.file = nil }
    }

    private func check(_ range: ByteRange, _ operation: String) throws(BlockError) {
        let (end, overflow) = range.offset.addingReportingOverflow(range.lengthBytes)
        guard !overflow, end <= lengthBytes else {
            throw BlockError(
                .outOfRange, operation, on: path, range: range,
                detail: "the image ends at \(lengthBytes)")
        }
        guard range.offset % geometry.clusterBytes == 0,
            end % geometry.clusterBytes == 0 || end == lengthBytes
        else {
            throw BlockError(
                .invalid, operation, on: path, range: range,
                detail: "the range is not of whole clusters of \(geometry.clusterBytes) bytes")
        }
    }

    private func openFile(_ state: State) throws(BlockError) -> any StorageFile {
        guard let file = state.file else {
            throw BlockError(.invalid, "write", on: path, detail: "the image is closed already")
        }
        return file
    }

    private func write(
        _ source: BufferSlice, at guestOffset: UInt64, _ progress: inout Progress
    ) throws(BlockError) {
        if progress.unwritten != nil { try put(&progress) }
        let rest = source.slice(progress.doneBytes, source.count - progress.doneBytes)
        guard rest.count > 0 else { return }
        let offset = guestOffset + UInt64(progress.doneBytes)
        if isCompressing {
            try compress(rest, at: offset, &progress)
        } else {
            progress.unwritten = try place(rest, at: offset)
            try put(&progress)
        }
    }

    /// Writes what has its place.
    private func put(_ progress: inout Progress) throws(BlockError) {
        guard let placed = progress.unwritten else { return }
        try turn.withLock { (_) throws(BlockError) in
            try placed.file.write(at: placed.host, from: placed.data.readOnlyBytes)
        }
        progress.unwritten = nil
        progress.doneBytes += placed.sourceBytes
        if let writeback = placed.writeback { placed.file.startWriteback(writeback) }
    }

    /// Gives data as it is a place.
    private func place(
        _ source: BufferSlice, at guestOffset: UInt64
    ) throws(BlockError) -> PlacedData {
        let count = geometry.clusters(for: UInt64(source.count))
        return try state.withLock { (state) throws(BlockError) -> PlacedData in
            let file = try openFile(state)
            let first = state.nextCluster
            state.nextCluster += count
            state.storedBytes += count << UInt64(geometry.clusterBits)
            try state.tables.map(
                from: guestOffset, count: Int(count), nextCluster: &state.nextCluster,
                entry: { index in
                    (first + UInt64(index)) << UInt64(geometry.clusterBits) | Qcow2Layout.copied
                })
            return PlacedData(
                file: file, host: first << UInt64(geometry.clusterBits), data: source,
                sourceBytes: source.count, writeback: nextWriteback(&state))
        }
    }

    /// Stores each cluster of `source` in compressed form, where that is shorter.
    private func compress(
        _ source: BufferSlice, at guestOffset: UInt64, _ progress: inout Progress
    ) throws(BlockError) {
        let clusterBytes = Int(geometry.clusterBytes)
        let idle = state.withLock { $0.compressors.popLast() }
        let compressor: ClusterCompressor
        if let idle {
            compressor = idle
        } else {
            compressor = try ClusterCompressor(header.compression, clusterBytes: clusterBytes)
        }
        defer { state.withLock { $0.compressors.append(compressor) } }
        let packed = BufferPool.shared.take(clusterBytes).prefix(clusterBytes)
        var done = 0
        while done < source.count {
            let cluster = source.slice(done, min(clusterBytes, source.count - done))
            let offset = guestOffset + UInt64(done)
            if let count = compressor.pack(
                cluster.padded(to: clusterBytes).readOnlyBytes, into: packed.bytes)
            {
                progress.unwritten = try placePacked(
                    packed.slice(0, count), of: cluster, at: offset)
            } else {
                progress.unwritten = try place(cluster, at: offset)
            }
            try put(&progress)
            done += cluster.count
        }
    }

    private func placePacked(
        _ form: BufferSlice, of cluster: BufferSlice, at guestOffset: UInt64
    ) throws(BlockError) -> PlacedData {
        try state.withLock { (state) throws(BlockError) -> PlacedData in
            let file = try openFile(state)
            let (host, entry) = try placePacked(form.count, &state)
            state.storedBytes += UInt64(form.count)
            try state.tables.map(
                from: guestOffset, count: 1, nextCluster: &state.nextCluster,
                entry: { _ in entry })
            return PlacedData(
                file: file, host: host, data: form, sourceBytes: cluster.count,
                writeback: nextWriteback(&state))
        }
    }

    /// Finds room for a compressed form of `count` bytes: behind the last one if there is any left
    /// or if more follows, else in a new cluster.
    private func placePacked(
        _ count: Int, _ state: inout State
    ) throws(BlockError) -> (host: UInt64, entry: UInt64) {
        while true {
            let newest = state.nextCluster << UInt64(geometry.clusterBits)
            if state.packPosition + UInt64(count) > state.packLimit {
                if state.packLimit != newest { state.packPosition = newest }
                state.nextCluster += geometry.clusters(
                    for: state.packPosition + UInt64(count) - newest)
                state.packLimit = state.nextCluster << UInt64(geometry.clusterBits)
            }
            let host = state.packPosition
            try CompressedLocation.check(
                ByteRange(offset: host, lengthBytes: UInt64(count)),
                clusterBits: geometry.clusterBits, on: path)
            let entry = CompressedLocation.entry(
                offset: host, packedBytes: count, clusterBits: geometry.clusterBits)
            let location = CompressedLocation(entry: entry, clusterBits: geometry.clusterBits)
            if state.refcounts.add(geometry.clusters(of: location.range)) {
                state.packPosition += UInt64(count)
                return (host, entry)
            }
            // The cluster has as many references as can be counted: on to a new one.
            state.packPosition = state.packLimit
        }
    }

    private func nextWriteback(_ state: inout State) -> ByteRange? {
        let newest = state.nextCluster << UInt64(geometry.clusterBits)
        guard newest >= state.writebackFrom + 2 * Self.writebackBytes else { return nil }
        let range = ByteRange(offset: state.writebackFrom, end: newest - Self.writebackBytes)
        state.writebackFrom = range.end
        return range
    }

    /// `finish`, on the caller's thread.
    func finishBlocking() throws(BlockError) {
        let file = try state.withLock { (state) throws(BlockError) -> any StorageFile in
            let file = try openFile(state)
            try finish(&state, file)
            state.file = nil
            return file
        }
        try file.flush()
    }

    private func finish(_ state: inout State, _ file: any StorageFile) throws(BlockError) {
        try state.tables.writeAll(nextCluster: &state.nextCluster)
        var header = header
        header.l1Offset = state.nextCluster << UInt64(geometry.clusterBits)
        if state.tables.l1.contains(where: { $0 != 0 }) {
            try file.writeNumbers(state.tables.l1, at: header.l1Offset)
        }
        state.nextCluster += geometry.clusters(for: UInt64(header.l1Count) * 8)

        let plan = RefcountPlan(
            clustersBefore: state.nextCluster, geometry: geometry, order: header.refcountOrder)
        let blocksOffset = state.nextCluster << UInt64(geometry.clusterBits)
        header.refcountTableOffset = blocksOffset + plan.blockCount * geometry.clusterBytes
        header.refcountTableClusters = UInt32(plan.tableClusters)
        guard plan.tableClusters * geometry.clusterBytes <= Qcow2Layout.refcountTableBytesMax else {
            throw BlockError(
                .noSpace, "finish the image", on: path,
                detail: "the data needs larger clusters than \(geometry.clusterBytes) bytes")
        }
        try file.truncate(toBytes: plan.total * geometry.clusterBytes)
        try state.refcounts.writeBlocks(
            plan.total, at: blocksOffset, order: header.refcountOrder,
            clusterBytes: geometry.clusterBytes, file: file)
        let blocks = (0..<plan.blockCount).map { blocksOffset + $0 * geometry.clusterBytes }
        try file.writeNumbers(blocks, at: header.refcountTableOffset)

        let bytes = try header.encoded(on: path)
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: 0, from: bytes)
        }
    }
}

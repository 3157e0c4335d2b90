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
        var storedClusters: UInt64 = 0
        var writebackFrom: UInt64 = 0
    }

    /// Writeback begins this far behind the newest cluster, in pieces of this size: far enough for
    /// the writes of other tasks to have landed, near enough for the last flush to be short.
    private static let writebackBytes: UInt64 = 8 << 20

    private let path: String
    private let lengthBytes: UInt64
    private let header: Qcow2Header
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
    package init(
        path: String, lengthBytes: UInt64, clusterBytes: UInt64, backing: Qcow2Backing?,
        pool: IOPool = .background
    ) throws(BlockError) {
        header = try Self.header(
            path: path, lengthBytes: lengthBytes, clusterBytes: clusterBytes, backing: backing)
        _ = try header.encoded(on: path)
        geometry = header.geometry
        self.path = path
        self.lengthBytes = lengthBytes
        self.pool = pool
        let file = try HostFile(path: path, access: .create)
        state = HostMutex(State(file: file, tables: WriterTables(geometry: geometry, file: file)))
    }

    private static func header(
        path: String, lengthBytes: UInt64, clusterBytes: UInt64, backing: Qcow2Backing?
    ) throws(BlockError) -> Qcow2Header {
        func invalid(_ detail: String) -> BlockError {
            BlockError(.invalid, "create the image", on: path, detail: detail)
        }
        let bits = clusterBytes.trailingZeroBitCount
        guard clusterBytes.isPowerOfTwo,
            (Qcow2Layout.clusterBitsMin...Qcow2Layout.clusterBitsMax).contains(bits)
        else {
            throw invalid("clusters of \(clusterBytes) bytes; a power of two to 2 MiB is needed")
        }
        guard lengthBytes <= UInt64(1) << 56 else {
            throw invalid("\(lengthBytes) bytes are more than the format holds")
        }
        let geometry = Qcow2Geometry(clusterBits: bits, sizeBytes: lengthBytes.alignedUp(to: 512))
        guard geometry.l1Count * 8 <= Qcow2Layout.l1BytesMax else {
            throw invalid(
                "\(lengthBytes) bytes are too many for clusters of \(clusterBytes) bytes; "
                    + "choose larger clusters")
        }
        return Qcow2Header(
            version: 3, clusterBits: bits, sizeBytes: geometry.sizeBytes, backing: backing,
            compression: .deflate, incompatible: 0, compatible: 0, autoclear: 0,
            snapshotCount: 0, refcountOrder: 4, l1Count: UInt32(geometry.l1Count), l1Offset: 0,
            refcountTableOffset: 0, refcountTableClusters: 0)
    }

    /// The bytes of data clusters written so far.
    package var storedBytes: UInt64 {
        state.withLock { $0.storedClusters } << UInt64(geometry.clusterBits)
    }

    /// Stores `source` at `guestOffset`, a multiple of the cluster size, as is its length unless it
    /// ends where the image does. Each cluster may be written once.
    package func write(at guestOffset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await pool.run { [self] () throws(BlockError) in
            try store(source, at: guestOffset)
        }
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

    private func store(_ source: BufferSlice, at guestOffset: UInt64) throws(BlockError) {
        let range = ByteRange(offset: guestOffset, lengthBytes: UInt64(source.count))
        try check(range, "write")
        guard !range.isEmpty else { return }
        let count = geometry.clusters(for: range.lengthBytes)
        let (file, host, writeback) = try state.withLock {
            (state) throws(BlockError) -> (any StorageFile, UInt64, ByteRange?) in
            let file = try openFile(state)
            let first = state.nextCluster
            state.nextCluster += count
            state.storedClusters += count
            try state.tables.map(
                from: guestOffset, count: Int(count), nextCluster: &state.nextCluster,
                entry: { index in
                    (first + UInt64(index)) << UInt64(geometry.clusterBits) | Qcow2Layout.copied
                })
            return (file, first << UInt64(geometry.clusterBits), nextWriteback(&state))
        }
        try turn.withLock { (_) throws(BlockError) in
            try file.write(at: host, from: source.readOnlyBytes)
        }
        if let writeback { file.startWriteback(writeback) }
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
        // An image has at least one cluster of L1, as QEMU expects even of an empty one.
        state.nextCluster += max(1, geometry.clusters(for: UInt64(header.l1Count) * 8))

        let plan = RefcountPlan(clustersBefore: state.nextCluster, geometry: geometry)
        let blocksOffset = state.nextCluster << UInt64(geometry.clusterBits)
        header.refcountTableOffset = blocksOffset + plan.blockCount * geometry.clusterBytes
        header.refcountTableClusters = UInt32(plan.tableClusters)
        guard plan.tableClusters * geometry.clusterBytes <= Qcow2Layout.refcountTableBytesMax else {
            throw BlockError(
                .noSpace, "finish the image", on: path,
                detail: "the data needs larger clusters than \(geometry.clusterBytes) bytes")
        }
        try file.truncate(toBytes: plan.total * geometry.clusterBytes)
        try writeOnes(plan.total, at: blocksOffset, file)
        let blocks = (0..<plan.blockCount).map { blocksOffset + $0 * geometry.clusterBytes }
        try file.writeNumbers(blocks, at: header.refcountTableOffset)

        let bytes = try header.encoded(on: path)
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: 0, from: bytes)
        }
    }

    /// Writes `count` 16-bit refcounts of one, big-endian.
    private func writeOnes(
        _ count: UInt64, at offset: UInt64, _ file: any StorageFile
    ) throws(BlockError) {
        let piece = [UInt16](repeating: UInt16(1).bigEndian, count: Int(min(count, 1 << 19)))
        let bytes = piece.withUnsafeBytes { Array($0) }
        var done: UInt64 = 0
        while done < count {
            let now = min(count - done, UInt64(piece.count))
            try bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(
                    at: offset + done * 2,
                    from: UnsafeRawBufferPointer(rebasing: bytes[..<Int(now * 2)]))
            }
            done += now
        }
    }
}

/// How many clusters 16-bit refcounts take that cover everything before them and themselves.
struct RefcountPlan {
    private(set) var blockCount: UInt64 = 0
    private(set) var tableClusters: UInt64 = 1
    /// All clusters of the file.
    private(set) var total: UInt64

    init(clustersBefore: UInt64, geometry: Qcow2Geometry) {
        total = clustersBefore
        while true {
            total = clustersBefore + blockCount + tableClusters
            let blocks = geometry.clusters(for: total * 2)
            let tables = geometry.clusters(for: blocks * 8)
            if blocks == blockCount && tables <= tableClusters { return }
            blockCount = blocks
            tableClusters = max(tables, 1)
        }
    }
}

package import BlockCore
import Synchronization

// A qcow2 image as a block device.
//
// Reads and writes of clusters that are mapped need the mapping in memory and nothing else, and
// run side by side. Whatever changes the mapping — a write that allocates, zeroes, a discard —
// locks its clusters first and looks again.
//
// The order in which things reach the file:
//
// 1. Clusters in the reserve are counted and zero, durably (`ClusterAllocator`).
// 2. A new L2 table is such a cluster; then the L1 entry refers to it.
// 3. The data of a new cluster is written. Where the guest saw anything but zeroes before, all of
//    it is written durably: neither what is copied from elsewhere nor what is overwritten may be
//    lost with a mapping that reaches the medium before the data does.
// 4. The L2 entry refers to it. This is in the file, if not on the medium, before the write
//    returns, so that killing the process loses nothing that was acknowledged.
// 5. A flush makes all of it durable, and only then are clusters that were freed before given back.
//
// A crash between any two of these leaves clusters that count as used and are not: leaks, which
// `qemu-img check -r leaks` returns. Locks are taken in this order: `clusters`, `tables`, the
// allocator's.

/// An open qcow2 image; reads fall through to its backing device.
package final class Qcow2Device: BlockDevice {
    package let nodeName: String
    package var lengthBytes: UInt64 { length.load(ordering: .relaxed) }
    package let isReadOnly: Bool
    package var allocationUnitBytes: UInt64 { geometry.unitBytes }
    package var chainNodeCount: Int { 1 + (backing?.chainNodeCount ?? 0) }

    /// The header as it was when the image was opened.
    package let header: Qcow2Header
    /// Where unallocated clusters are read from.
    package let backing: (any BlockDevice)?

    let geometry: Qcow2Geometry
    let file: any StorageFile
    /// Where data clusters are: the external data file, or the image itself.
    let dataFile: any StorageFile
    let pool: IOPool
    let cache: L2Cache
    let damage: Damage
    let clusters = ClusterLocks()
    /// Held while an L1 entry, or the header, changes.
    let tables = AsyncLock()
    /// nil for an image that is open for reading.
    let allocator: ClusterAllocator?
    let regions: MetadataRegions?
    let snapshots: SnapshotTable
    let length: Atomic<UInt64>
    let currentBacking: HostMutex<Qcow2Backing?>
    /// Whether the header allows guest data to change.
    let isPrepared: Atomic<Bool>
    let canReadNow = Atomic(true)

    private static let l2CacheBytes = 32 << 20

    private init(
        file: any StorageFile, header: Qcow2Header, dataFile: (any StorageFile)?, readOnly: Bool,
        backing: (any BlockDevice)?, pool: IOPool
    ) throws(BlockError) {
        self.file = file
        self.header = header
        self.dataFile = dataFile ?? file
        nodeName = file.path
        length = Atomic(header.sizeBytes)
        currentBacking = HostMutex(header.backing)
        isReadOnly = readOnly
        self.backing = backing
        self.pool = pool
        geometry = header.geometry
        damage = Damage(file: file, header: header, isReadOnly: readOnly)
        snapshots = try SnapshotTable(file: file, header: header)
        isPrepared = Atomic(header.autoclear == header.keptAutoclear)
        let l1 = try file.readNumbers(Int(header.l1Count), at: header.l1Offset)
        guard !readOnly else {
            regions = nil
            allocator = nil
            cache = try L2Cache(
                file: file, header: header, l1: l1, regions: nil, damage: damage,
                cacheBytes: Self.l2CacheBytes)
            return
        }
        try Self.checkWritable(header, file.path)
        let refcountTable = try file.readNumbers(
            Int(UInt64(header.refcountTableClusters) * header.clusterBytes / 8),
            at: header.refcountTableOffset)
        let regions = MetadataRegions(
            header: header, l1: l1, refcountTable: refcountTable, snapshots: snapshots)
        self.regions = regions
        cache = try L2Cache(
            file: file, header: header, l1: l1, regions: regions, damage: damage,
            cacheBytes: Self.l2CacheBytes)
        allocator = ClusterAllocator(
            file: file, dataFile: dataFile,
            refcounts: try Refcounts(
                file: file, header: header, table: refcountTable, regions: regions,
                damage: damage),
            cache: cache, regions: regions, damage: damage, pool: pool)
        // What reads as zeroes where data is going to be stored must do so durably: an earlier
        // owner of the image may not have flushed.
        if header.hasSubclusters || header.hasDataFile { try self.dataFile.flush() }
    }

    /// The header of the image at `path`, which names the backing file to open first.
    package static func readHeader(path: String) throws(BlockError) -> Qcow2Header {
        try Qcow2Header(path: path)
    }

    /// Opens the image at `path`, and the external data file that it may name. Blocks.
    ///
    /// - Parameter backing: the opened backing device, if the header names one; it belongs to the
    ///   caller, who closes it after this device.
    package static func open(
        path: String, readOnly: Bool, backing: (any BlockDevice)?, pool: IOPool = .guest
    ) throws(BlockError) -> Qcow2Device {
        let access: HostFile.Access = readOnly ? .readOnly : .readWrite
        let file = try HostFile(path: path, access: access)
        let header = try Qcow2Header(file: file)
        var dataFile: HostFile?
        if header.hasDataFile {
            dataFile = try HostFile(path: dataFilePath(header, from: path), access: access)
        }
        return try Qcow2Device(
            file: file, header: header, dataFile: dataFile, readOnly: readOnly, backing: backing,
            pool: pool)
    }

    /// Opens the image in `file`, with its data in `dataFile` if the header says that it is in an
    /// external one. Blocks.
    package static func open(
        file: any StorageFile, dataFile: (any StorageFile)? = nil, readOnly: Bool,
        backing: (any BlockDevice)?, pool: IOPool = .guest
    ) throws(BlockError) -> Qcow2Device {
        let header = try Qcow2Header(file: file)
        guard header.hasDataFile == (dataFile != nil) else {
            throw BlockError(
                .invalid, "open", on: file.path,
                detail: header.hasDataFile
                    ? "the image keeps its data in an external file, which must be given"
                    : "the image keeps its data itself, and an external file was given")
        }
        return try Qcow2Device(
            file: file, header: header, dataFile: dataFile, readOnly: readOnly, backing: backing,
            pool: pool)
    }

    /// The path of the external data file that the image at `path` names in `header`.
    package static func dataFilePath(
        _ header: Qcow2Header, from path: String
    ) throws(BlockError) -> String {
        guard let name = header.dataFileName, !name.isEmpty else {
            throw BlockError(
                .unsupported, "open", on: path,
                detail: "the image keeps its data in an external file and does not name it")
        }
        if name.hasPrefix("/") { return name }
        guard !name.hasPrefix("json:") else {
            throw BlockError(
                .unsupported, "open", on: path,
                detail: "the external data file is named by options (\(name)); name its path")
        }
        return "\(HostDirectory.parent(of: path))/\(name)"
    }

    package func flush() async throws(BlockError) {
        try await allocator?.flush()
    }

    /// Flushes, gives unused clusters back and leaves an image in which `qemu-img check` finds
    /// nothing amiss.
    package func close() async throws(BlockError) {
        try await allocator?.close()
    }

    /// Flushes and gives unused clusters back, as `close` does, and stays in use: reads may be in
    /// flight, and changes may follow. Until one does, neither a flush nor `close` writes to the file.
    package func settle() async throws(BlockError) {
        try await allocator?.close()
    }

    /// How many nodes there are below this one.
    var depthOfBase: Int { chainNodeCount - 1 }

    /// Throws unless `range` may be changed.
    func checkWritable(_ range: ByteRange, _ operation: String) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
    }

    /// The allocator of an image that is open for writing.
    func writableAllocator(_ operation: String) throws(BlockError) -> ClusterAllocator {
        guard let allocator else { throw BlockError(.readOnly, operation, on: nodeName) }
        return allocator
    }

    private static func checkWritable(_ header: Qcow2Header, _ path: String) throws(BlockError) {
        typealias Bits = Qcow2Layout.Incompatible
        let problem: String
        if header.incompatible & Bits.corrupt != 0 {
            problem = "the image is marked corrupt"
        } else if header.incompatible & Bits.dirty != 0 {
            problem = "the image was not closed and its refcounts may be wrong"
        } else {
            return
        }
        throw BlockError(
            .corrupt, "open for writing", on: path,
            detail: "\(problem); run qemu-img check -r all")
    }
}

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
// 3. The data of a new cluster is written. What is copied from elsewhere to fill the cluster up is
//    written durably: it was durable where it came from.
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
    package let lengthBytes: UInt64
    package let isReadOnly: Bool
    package var allocationUnitBytes: UInt64 { geometry.clusterBytes }
    package var chainNodeCount: Int { 1 + (backing?.chainNodeCount ?? 0) }

    /// The header as it was when the image was opened.
    package let header: Qcow2Header
    /// Where unallocated clusters are read from.
    package let backing: (any BlockDevice)?

    let geometry: Qcow2Geometry
    let file: HostFile
    let pool: IOPool
    let cache: L2Cache
    let clusters = ClusterLocks()
    /// Held while an L1 entry, or the header, changes.
    let tables = AsyncLock()
    /// nil for an image that is open for reading.
    let allocator: ClusterAllocator?
    /// Whether the header allows guest data to change.
    let isPrepared: Atomic<Bool>
    let canReadNow = Atomic(true)

    private static let l2CacheBytes = 32 << 20

    private init(
        path: String, readOnly: Bool, backing: (any BlockDevice)?, pool: IOPool
    ) throws(BlockError) {
        file = try HostFile(path: path, access: readOnly ? .readOnly : .readWrite)
        header = try Qcow2Header(file: file)
        nodeName = path
        lengthBytes = header.sizeBytes
        isReadOnly = readOnly
        self.backing = backing
        self.pool = pool
        geometry = header.geometry
        cache = try L2Cache(file: file, header: header, cacheBytes: Self.l2CacheBytes)
        isPrepared = Atomic(header.autoclear == 0)
        if readOnly {
            allocator = nil
        } else {
            try Self.checkWritable(header, path)
            allocator = ClusterAllocator(
                file: file, refcounts: try Refcounts(file: file, header: header), cache: cache,
                flushes: SharedFlush(file: file, pool: pool), pool: pool)
        }
    }

    /// Creates an image in which nothing is allocated at `path`, where there must be nothing.
    ///
    /// - Parameters:
    ///   - lengthBytes: rounded up to a multiple of 512, as QEMU expects of an image.
    ///   - clusterBytes: a power of two from 512 to 2 MiB.
    ///   - backing: written to the header as given; nothing is opened.
    package static func create(
        path: String, lengthBytes: UInt64, clusterBytes: UInt64 = 65536,
        backing: Qcow2Backing? = nil, pool: IOPool = .guest
    ) throws(BlockError) {
        let writer = try Qcow2Writer(
            path: path, lengthBytes: lengthBytes, clusterBytes: clusterBytes, backing: backing,
            pool: pool)
        do throws(BlockError) {
            try writer.finishBlocking()
        } catch {
            writer.abandon()
            try? HostDirectory.removeFile(path)
            throw error
        }
    }

    /// The header of the image at `path`, which names the backing file to open first.
    package static func readHeader(path: String) throws(BlockError) -> Qcow2Header {
        try Qcow2Header(path: path)
    }

    /// Opens the image at `path`. Blocks.
    ///
    /// - Parameter backing: the opened backing device, if the header names one; it belongs to the
    ///   caller, who closes it after this device.
    package static func open(
        path: String, readOnly: Bool, backing: (any BlockDevice)?, pool: IOPool = .guest
    ) throws(BlockError) -> Qcow2Device {
        try Qcow2Device(path: path, readOnly: readOnly, backing: backing, pool: pool)
    }

    package func flush() async throws(BlockError) {
        try await allocator?.flush()
    }

    /// Flushes, gives unused clusters back and leaves an image in which `qemu-img check` finds
    /// nothing amiss.
    package func close() async throws(BlockError) {
        try await allocator?.close()
    }

    /// How many nodes there are below this one, as far as they are qcow2 images.
    var depthOfBase: Int {
        guard let backing else { return 0 }
        return 1 + ((backing as? Qcow2Device)?.depthOfBase ?? 0)
    }

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

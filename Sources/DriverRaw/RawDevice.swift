package import BlockCore
import Synchronization

/// An image that is its content: a regular file or a block device of the host.
package final class RawDevice: BlockDevice {
    package let nodeName: String
    package let lengthBytes: UInt64
    package let isReadOnly: Bool
    package var allocationUnitBytes: UInt64 { 4096 }

    private let file: HostFile
    private let pool: IOPool
    private let flushes: SharedFlush
    /// Whether the file system can try to read without waiting; found out by the first attempt.
    private let canReadNow = Atomic(true)
    /// Whether the file system can punch holes: 0 not known yet, 1 yes, 2 no.
    private let holePunching = Atomic<UInt8>(0)

    private init(file: HostFile, pool: IOPool) throws(BlockError) {
        self.file = file
        self.pool = pool
        nodeName = file.path
        lengthBytes = try file.sizeBytes()
        isReadOnly = file.isReadOnly
        flushes = SharedFlush(file: file, pool: pool)
    }

    /// Opens the file or block device at `path`; its present size is the length of the node.
    package static func open(
        path: String, readOnly: Bool, pool: IOPool = .guest
    ) throws(BlockError) -> RawDevice {
        let file = try HostFile(path: path, access: readOnly ? .readOnly : .readWrite)
        return try RawDevice(file: file, pool: pool)
    }

    /// Creates a file of `lengthBytes` zeroes, none of them allocated, at `path`, where there must
    /// be nothing.
    package static func create(path: String, lengthBytes: UInt64) throws(BlockError) {
        guard lengthBytes <= UInt64(Int64.max) else {
            throw BlockError(
                .invalid, "create", on: path, detail: "\(lengthBytes) bytes are too many for a file"
            )
        }
        let file = try HostFile(path: path, access: .create)
        do throws(BlockError) {
            try file.truncate(toBytes: lengthBytes)
        } catch {
            try? HostDirectory.removeFile(path)
            throw error
        }
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> Bool {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        if destination.isEmpty { return true }
        guard canReadNow.load(ordering: .relaxed) else { return false }
        switch try file.readNow(at: offset, into: destination) {
        case .done: return true
        case .wouldBlock: return false
        case .unsupported:
            canReadNow.store(false, ordering: .relaxed)
            return false
        }
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        // The page cache takes it; measured, this waits no longer than handing it over would.
        try file.write(at: offset, from: source)
        return true
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        try await pool.run { [file] () throws(BlockError) in
            try file.read(at: offset, into: destination.bytes)
        }
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        try await pool.run { [file] () throws(BlockError) in
            try file.write(at: offset, from: source.readOnlyBytes)
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try checkWritable(range, "write zeroes")
        try await pool.run { [file] () throws(BlockError) in
            try file.writeZeroes(range, mayUnmap: mayUnmap)
        }
    }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        mayUnmap && !isReadOnly && canPunchHoles
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkWritable(range, "discard")
        _ = try await pool.run { [file] () throws(BlockError) in try file.deallocate(range) }
    }

    package func flush() async throws(BlockError) {
        if isReadOnly { return }
        try await flushes.flush()
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        return try await pool.run { [self] () throws(BlockError) in
            try storedExtents(in: range, limit: max(limit, 1))
        }
    }

    package func close() async throws(BlockError) {
        try await flush()
    }

    // Beyond the end there is nothing to lose, and the length stays as it is.
    private func findOutWhetherHolesCanBePunched() -> Bool {
        let range = ByteRange(offset: lengthBytes.alignedUp(to: 4096), lengthBytes: 4096)
        let can = (try? file.deallocate(range)) ?? false
        holePunching.store(can ? 1 : 2, ordering: .relaxed)
        return can
    }

    private var canPunchHoles: Bool {
        switch holePunching.load(ordering: .relaxed) {
        case 0: findOutWhetherHolesCanBePunched()
        case let known: known == 1
        }
    }

    private func checkWritable(_ range: ByteRange, _ operation: String) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
    }

    private func storedExtents(in range: ByteRange, limit: Int) throws(BlockError) -> [Extent] {
        var extents: [Extent] = []
        var position = range.offset
        while position < range.end, extents.count < limit {
            let rest = ByteRange(offset: position, end: range.end)
            let data = try file.nextData(in: rest)
            let hole = ByteRange(offset: position, end: data?.offset ?? range.end)
            extents.appendMerging(Extent(range: hole, isZero: true, isHole: true))
            position = hole.end
            if let data, extents.count < limit {
                extents.appendMerging(Extent(range: data, isZero: false, isHole: false))
                position = data.end
            }
        }
        return extents
    }
}

package import BlockCore
import Synchronization

// With direct I/O, reads and writes bypass the page cache and always wait for the medium: the *now*
// face refuses them. The end of a file that is no multiple of its unit, zeroes and discards go the
// usual way; the kernel keeps the two in step for a file that nobody has mapped.

/// An image that is its content: a regular file or a block device of the host.
package final class RawDevice: BlockDevice {
    package let nodeName: String
    package var lengthBytes: UInt64 { length.load(ordering: .relaxed) }
    package let isReadOnly: Bool
    package var allocationUnitBytes: UInt64 { 4096 }

    private let length: Atomic<UInt64>
    private let file: HostFile
    private let pool: IOPool
    private let flushes: SharedFlush
    /// Whether the file system can try to read without waiting; found out by the first attempt.
    private let canReadNow: Atomic<Bool>
    /// Whether the file system can punch holes: 0 not known yet, 1 yes, 2 no.
    private let holePunching = Atomic<UInt8>(0)
    /// The way past the page cache, if it is to be bypassed, and what makes its units of requests.
    private let direct: DirectFile?
    private let aligned: AlignedAccess<DirectFile>?

    private init(
        file: HostFile, bypassingPageCache: Bool, pool: IOPool
    ) throws(BlockError) {
        self.file = file
        self.pool = pool
        nodeName = file.path
        length = Atomic(try file.sizeBytes())
        isReadOnly = file.isReadOnly
        flushes = SharedFlush(file: file, pool: pool)
        direct = bypassingPageCache ? try DirectFile(file, pool: pool) : nil
        aligned = direct.map { AlignedAccess($0, unitBytes: $0.unitBytes) }
        canReadNow = Atomic(!bypassingPageCache)
    }

    /// Opens the file or block device at `path`; its present size is the length of the node.
    /// With `bypassingPageCache` its content is kept out of the host's memory (O_DIRECT).
    package static func open(
        path: String, readOnly: Bool, bypassingPageCache: Bool = false, pool: IOPool = .guest
    ) throws(BlockError) -> RawDevice {
        let file = try HostFile(path: path, access: readOnly ? .readOnly : .readWrite)
        return try RawDevice(file: file, bypassingPageCache: bypassingPageCache, pool: pool)
    }

    /// Creates a file of `lengthBytes` zeroes, none of them allocated, at `path`, where there must
    /// be nothing. The file is durable when this returns, its name is the caller's to flush.
    package static func create(path: String, lengthBytes: UInt64) throws(BlockError) {
        guard lengthBytes <= UInt64(Int64.max) else {
            throw BlockError(
                .invalid, "create", on: path, detail: "\(lengthBytes) bytes are too many for a file"
            )
        }
        let file = try HostFile(path: path, access: .create)
        do throws(BlockError) {
            try file.truncate(toBytes: lengthBytes)
            // Else a power loss leaves an empty file, which is not what the catalog records.
            try file.flush()
        } catch {
            try? HostDirectory.removeFile(path)
            throw error
        }
    }

    /// Changes the size of the file. What is new reads as zeroes, what is cut off is gone. Nothing
    /// may be in flight in what is cut off.
    package func resize(to lengthBytes: UInt64) async throws(BlockError) {
        if isReadOnly { throw BlockError(.readOnly, "resize", on: nodeName) }
        guard lengthBytes <= UInt64(Int64.max) else {
            throw BlockError(
                .invalid, "resize", on: nodeName,
                detail: "\(lengthBytes) bytes are too many for a file")
        }
        // Before a cut nothing may be let in any more, after a growth not earlier than it is there.
        if lengthBytes < self.lengthBytes { setLength(lengthBytes) }
        try await pool.run { [file] () throws(BlockError) in
            try file.truncate(toBytes: lengthBytes)
        }
        setLength(lengthBytes)
        try await flush()
    }

    private func setLength(_ lengthBytes: UInt64) {
        direct?.setFileLength(lengthBytes)
        length.store(lengthBytes, ordering: .relaxed)
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        if destination.isEmpty { return .done }
        guard canReadNow.load(ordering: .relaxed) else { return .refused }
        let attempt = try file.readNow(at: offset, into: destination)
        if attempt == .refused { canReadNow.store(false, ordering: .relaxed) }
        return attempt
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        guard direct == nil || source.isEmpty else { return false }
        // The page cache takes it; measured, this waits no longer than handing it over would.
        try file.write(at: offset, from: source)
        return true
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        let (head, tail) = split(destination, at: offset)
        if let aligned, head.count > 0 { try await aligned.read(at: offset, into: head) }
        guard tail.count > 0 else { return }
        try await pool.run { [file] () throws(BlockError) in
            try file.read(at: offset + UInt64(head.count), into: tail.bytes)
        }
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        let (head, tail) = split(source, at: offset)
        if let aligned, head.count > 0 { try await aligned.write(at: offset, from: head) }
        guard tail.count > 0 else { return }
        try await pool.run { [file] () throws(BlockError) in
            try file.write(at: offset + UInt64(head.count), from: tail.readOnlyBytes)
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

    /// What of a request bypasses the page cache, and what lies behind that.
    private func split(
        _ slice: BufferSlice, at offset: UInt64
    ) -> (direct: BufferSlice, rest: BufferSlice) {
        let count = direct.map { Int(min(UInt64(slice.count), $0.lengthBytes.subtracting(offset))) }
        return (slice.slice(0, count ?? 0), slice.slice(count ?? 0, slice.count - (count ?? 0)))
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

extension UInt64 {
    /// The difference, or zero where it would be negative.
    fileprivate func subtracting(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}

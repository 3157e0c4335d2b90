import CLinux
import Glibc
import Synchronization

// Every read, write, flush, rename and unlink of an image or a repository file goes through
// `HostFile` and `HostDirectory`: the one seam between the agent and its files.

/// An open file or block device of the host, by system calls that may block.
///
/// The descriptor is closed when the last reference goes. Any thread may call any method;
/// overlapping requests are the caller's to order.
package final class HostFile: StorageFile {
    /// How a file is opened.
    package enum Access: Sendable {
        case readOnly
        case readWrite
        /// Created for its owner alone, and refused if it exists.
        case create
    }

    package let path: String
    package let isReadOnly: Bool
    private let descriptor: Int32
    /// The same file opened once more, for durable writes; -1 before the first. The kernel tells
    /// each opening once that pages were lost in writeback, whoever wrote them. A durable write that
    /// is told must not keep it from the next `flush`, which would then succeed.
    private let durableDescriptor = Atomic<Int32>(-1)
    /// Nil where content bypasses the page cache.
    private let mappedReads: MappedReads?
    /// Whether the file system can do that; found out by the first attempt.
    let canPunchHoles = Atomic(true)
    let canZeroRanges = Atomic(true)

    package init(path: String, access: Access) throws(BlockError) {
        let flags: Int32
        switch access {
        case .readOnly: flags = O_RDONLY
        case .readWrite: flags = O_RDWR
        case .create: flags = O_RDWR | O_CREAT | O_EXCL
        }
        let descriptor = Glibc.open(path, flags | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw .system(access == .create ? "create" : "open", on: path, errno: errno)
        }
        // Nobody asks when an image was last read, and noting it costs at every read.
        clinux_keep_access_time(descriptor)
        self.path = path
        self.isReadOnly = access == .readOnly
        self.descriptor = descriptor
        mappedReads = MappedReads()
    }

    /// The same file once more, by a descriptor that bypasses the page cache: offsets, lengths and
    /// memory must be multiples of what `directUnitBytes` says.
    package init(bypassingPageCacheOf file: HostFile) throws(BlockError) {
        path = file.path
        isReadOnly = file.isReadOnly
        mappedReads = nil
        // By its descriptor, since the path may name another file by now.
        let link = "/proc/self/fd/\(file.descriptor)"
        descriptor = Glibc.open(link, (isReadOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system("open", on: path, errno: errno) }
        guard clinux_bypass_page_cache(descriptor) == 0 else {
            throw BlockError(
                .unsupported, "open for direct I/O", on: path, errno: errno,
                detail: "its file system always uses the page cache")
        }
    }

    /// What direct requests must be multiples of: the least of 512, 4096 and 65536 that the file
    /// accepts. Blocks.
    package func directUnitBytes() throws(BlockError) -> Int {
        // An empty file accepts anything.
        guard try sizeBytes() > 0 else { return 4096 }
        let buffer = BufferPool.shared.take(128 << 10)
        for unit in [512, 4096, 65536] {
            // Memory that is aligned to the unit and to nothing more.
            if pread(descriptor, buffer.base + unit, unit, 0) >= 0 { return unit }
            guard errno == EINVAL else { throw failure("read", 0, unit) }
        }
        throw BlockError(
            .unsupported, "open for direct I/O", on: path,
            detail: "it accepts no unit of up to 64 KiB")
    }

    /// A file without a name in `directory`, gone when the last reference is.
    package init(temporaryIn directory: String) throws(BlockError) {
        var template = Array("\(directory)/.tidemark-spill-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        guard descriptor >= 0 else {
            throw .system("create a temporary file", on: directory, errno: errno)
        }
        unlink(template)
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        self.path = "\(directory)/(temporary)"
        self.isReadOnly = false
        self.descriptor = descriptor
        mappedReads = nil
    }

    /// What makes two paths the same file, whatever they are called.
    package struct Identity: Hashable, Sendable, CustomStringConvertible {
        let device: UInt
        let inode: UInt

        /// Fit to be kept and compared.
        package var description: String { "\(device):\(inode)" }
    }

    /// The identity of the file at `path`; nil if there is none.
    package static func identity(of path: String) -> Identity? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return Identity(device: UInt(status.st_dev), inode: UInt(status.st_ino))
    }

    deinit {
        Glibc.close(descriptor)
        let durable = durableDescriptor.load(ordering: .acquiring)
        if durable >= 0 { Glibc.close(durable) }
    }

    /// The present size in bytes.
    package func sizeBytes() throws(BlockError) -> UInt64 {
        let size = clinux_size(descriptor)
        guard size >= 0 else { throw .system("ask the size", on: path, errno: errno) }
        return UInt64(size)
    }

    /// Fills `destination` from `offset`; what lies beyond the end of the file is zeroes.
    package func read(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) {
        var done = 0
        while done < destination.count {
            let got = pread(
                descriptor, destination.baseAddress! + done, destination.count - done,
                Int(offset) + done)
            if got < 0 {
                if errno == EINTR { continue }
                throw failure("read", offset, destination.count)
            }
            if got == 0 {
                memset(destination.baseAddress! + done, 0, destination.count - done)
                return
            }
            done += got
        }
    }

    /// Fills `destination` from `offset` as far as the page cache holds it without a gap. What it
    /// does not hold, the kernel has begun to read.
    package func readNow(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        if mappedReads?.copy(at: offset, into: destination, from: descriptor) == true {
            return .done
        }
        let got = clinux_pread_nowait(
            descriptor, destination.baseAddress, destination.count, Int64(offset))
        if got == destination.count { return .done }
        if got >= 0 { return begun(at: offset, destination.count, doneBytes: got) }
        if errno == EAGAIN || errno == EINTR {
            return begun(at: offset, destination.count, doneBytes: 0)
        }
        if errno == EOPNOTSUPP || errno == ENOSYS { return .refused }
        throw failure("read", offset, destination.count)
    }

    /// The kernel has begun with a part of a long read only: it is told to go on with all of it, so
    /// that several such reads are one stream each and not a mixture of short ones.
    private func begun(at offset: UInt64, _ count: Int, doneBytes: Int) -> ReadAttempt {
        if count - doneBytes > Self.readAheadBytes {
            _ = posix_fadvise(
                descriptor, Int(offset) + doneBytes, count - doneBytes, POSIX_FADV_WILLNEED)
        }
        return .begun(doneBytes: doneBytes)
    }

    /// About what the kernel begins with by itself.
    private static let readAheadBytes = 128 << 10

    /// Writes all of `source` at `offset`, into the page cache.
    package func write(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) {
        try write(at: offset, from: source, to: descriptor) { pwrite($0, $1, $2, Int($3)) }
    }

    /// Writes all of `source` at `offset` and returns when that is durable, whatever else of the
    /// file still waits to be written.
    package func writeDurably(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) {
        guard !isReadOnly else { throw BlockError(.readOnly, "write", on: path) }
        let durable = try openForDurableWrites()
        do throws(BlockError) {
            try write(at: offset, from: source, to: durable, by: clinux_pwrite_durable)
        } catch {
            guard error.kind == .unsupported else { throw error }
            try write(at: offset, from: source)
            guard fdatasync(durable) == 0 else { throw .system("flush", on: path, errno: errno) }
        }
    }

    private func openForDurableWrites() throws(BlockError) -> Int32 {
        let known = durableDescriptor.load(ordering: .acquiring)
        if known >= 0 { return known }
        // By its descriptor, since the path may name another file by now.
        let new = Glibc.open("/proc/self/fd/\(descriptor)", O_RDWR | O_CLOEXEC)
        guard new >= 0 else { throw .system("open for durable writes", on: path, errno: errno) }
        let (isFirst, other) = durableDescriptor.compareExchange(
            expected: -1, desired: new, ordering: .acquiringAndReleasing)
        if isFirst { return new }
        Glibc.close(new)
        return other
    }

    private func write(
        at offset: UInt64, from source: UnsafeRawBufferPointer, to descriptor: Int32,
        by call: (Int32, UnsafeRawPointer?, Int, Int64) -> Int
    ) throws(BlockError) {
        var done = 0
        while done < source.count {
            let put = call(
                descriptor, source.baseAddress! + done, source.count - done,
                Int64(offset) + Int64(done))
            if put < 0 {
                if errno == EINTR { continue }
                throw failure("write", offset, source.count)
            }
            if put == 0 { throw failure("write", offset, source.count, ENOSPC) }
            done += put
        }
    }

    /// Makes every completed write durable, and the size with it.
    package func flush() throws(BlockError) {
        guard fdatasync(descriptor) == 0 else {
            throw .system("flush", on: path, errno: errno)
        }
    }

    /// Starts writing `range` back to the medium without waiting, so that a later flush is short.
    /// A hint: failure is silent.
    package func startWriteback(_ range: ByteRange) {
        _ = clinux_start_writeback(descriptor, Int64(range.offset), Int64(range.lengthBytes))
    }

    /// Cuts or grows the file; what is new reads as zeroes.
    package func truncate(toBytes size: UInt64) throws(BlockError) {
        guard ftruncate(descriptor, Int(size)) == 0 else {
            throw .system("resize to \(size) bytes", on: path, errno: errno)
        }
    }

    /// Deallocates `range`, which then reads as zeroes.
    package func punchHole(_ range: ByteRange) throws(BlockError) {
        guard clinux_punch_hole(descriptor, Int64(range.offset), Int64(range.lengthBytes)) == 0
        else { throw failure("punch a hole", range.offset, Int(range.lengthBytes)) }
    }

    /// Makes `range` read as zeroes and keeps it allocated.
    package func zeroRange(_ range: ByteRange) throws(BlockError) {
        guard clinux_zero_range(descriptor, Int64(range.offset), Int64(range.lengthBytes)) == 0
        else { throw failure("write zeroes", range.offset, Int(range.lengthBytes)) }
    }

    /// The next run of `range` that the file system stores, from its start: nil if none.
    package func nextData(in range: ByteRange) throws(BlockError) -> ByteRange? {
        let data = clinux_seek_data(descriptor, Int64(range.offset))
        if data < 0 {
            if errno == ENXIO { return nil }
            if errno == EINVAL { return range }
            throw failure("seek data", range.offset, Int(range.lengthBytes))
        }
        guard UInt64(data) < range.end else { return nil }
        let hole = clinux_seek_hole(descriptor, data)
        guard hole >= 0 else { throw failure("seek a hole", range.offset, Int(range.lengthBytes)) }
        return ByteRange(offset: UInt64(data), end: min(UInt64(hole), range.end))
    }

    /// Locks the whole file for this process without waiting; released with the last reference.
    package func lock(exclusive: Bool) throws(BlockError) {
        guard clinux_lock_file(descriptor, exclusive) == 0 else {
            if errno == EAGAIN || errno == EACCES {
                throw BlockError(.busy, "lock", on: path, detail: "another process holds it")
            }
            throw .system("lock", on: path, errno: errno)
        }
    }

    private func failure(
        _ operation: String, _ offset: UInt64, _ count: Int, _ number: Int32 = errno
    ) -> BlockError {
        .system(
            operation, on: path, errno: number,
            range: ByteRange(offset: offset, lengthBytes: UInt64(count)))
    }
}

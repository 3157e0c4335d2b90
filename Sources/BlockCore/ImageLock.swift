import CLinux
import Glibc

// The locks by which QEMU, its tools and this agent keep out of each other's way.
//
// A program that opens an image holds shared locks on single bytes of the file, wherever it ends:
// byte 100 + n says "I use permission n", byte 200 + n says "nobody else may use permission n".
// Nobody waits for such a lock, and all of them are shared, so taking one always succeeds. The
// conflict shows afterwards: whoever uses n must find byte 200 + n free, and whoever forbids n must
// find byte 100 + n free. As both sides first take and then look, two that come at the same time
// may both give way, but never both go on.
//
// The permissions are 0 consistent read, 1 write, 2 write what is there already, 3 resize.
//
//                uses      forbids
//     reading    0         1 3         backing files, sources of copies
//     writing    0 1 3     1 3         the image that a volume writes
//
// So readers share an image, and a writer has it alone. A block device that is written is claimed
// from the kernel as well, which refuses one that is mounted or a part of another device. The locks
// belong to the open file description: they end with the descriptor, and so with the process,
// however that ends.

/// QEMU's locks on one image file, held until they are released or the last reference goes.
package final class ImageLock: Sendable {
    /// What the image is opened for.
    package enum Use: Sendable {
        case reading
        case writing

        fileprivate var usedPermissions: [Int64] { self == .reading ? [0] : [0, 1, 3] }
        fileprivate var forbiddenPermissions: [Int64] { [1, 3] }
    }

    private static let usedBase: Int64 = 100
    private static let forbiddenBase: Int64 = 200
    /// A program that merely looks at an image holds it for a moment.
    private static let attempts = 10
    private static let pauseMicroseconds: UInt32 = 50_000

    package let path: String
    private let descriptor: HostMutex<Int32?>

    /// Locks the regular file or block device at `path`. Throws `busy` if another program, or
    /// another node of this one, has it open in a way that does not go together with `use`. Blocks
    /// for up to half a second.
    package init(path: String, use: Use) throws(BlockError) {
        var named = stat()
        let isDevice = stat(path, &named) == 0 && named.st_mode & S_IFMT == S_IFBLK
        // Not blocking, so that a pipe by that name cannot hold us up.
        let opened = open(
            path,
            O_RDONLY | O_CLOEXEC | O_NONBLOCK | (isDevice && use == .writing ? O_EXCL : 0))
        guard opened >= 0 else {
            guard errno == EBUSY else { throw .system("open", on: path, errno: errno) }
            throw BlockError(
                .busy, "lock", on: path,
                detail: "the device is mounted, a part of another device or claimed by another "
                    + "program: end that use and try again")
        }
        self.path = path
        descriptor = HostMutex(opened)
        var status = stat()
        guard fstat(opened, &status) == 0 else { throw .system("open", on: path, errno: errno) }
        let type = status.st_mode & S_IFMT
        guard type == S_IFREG || type == S_IFBLK else {
            throw BlockError(
                .invalid, "open", on: path, detail: "it is neither a file nor a block device")
        }
        if Mutant.openWithoutLock.isActive { return }
        for permission in use.usedPermissions {
            try take(Self.usedBase + permission, use, opened)
        }
        for permission in use.forbiddenPermissions {
            try take(Self.forbiddenBase + permission, use, opened)
        }
        try check(use, opened)
    }

    deinit { release() }

    /// Gives the locks up, if that has not been done.
    package func release() {
        descriptor.withLock { descriptor in
            if let open = descriptor { close(open) }
            descriptor = nil
        }
    }

    /// Makes the locks those for writing. Throws `busy`, with the locks as they were, if another
    /// program, or another node of this one, has the image open. Blocks for up to half a second.
    package func startWriting() throws(BlockError) {
        try withDescriptor("lock for writing") { (descriptor) throws(BlockError) in
            if Mutant.openWithoutLock.isActive { return }
            do throws(BlockError) {
                for permission in Use.writing.usedPermissions {
                    try take(Self.usedBase + permission, .writing, descriptor)
                }
                try check(.writing, descriptor)
            } catch {
                unlockWriting(descriptor)
                throw error
            }
        }
    }

    /// Lets others read the image, which is written no more from here on: the locks become those for
    /// reading. Should that fail, they are kept.
    package func stopWriting() {
        descriptor.withLock { descriptor in
            if let descriptor { unlockWriting(descriptor) }
        }
    }

    private func unlockWriting(_ descriptor: Int32) {
        for permission in Use.writing.usedPermissions
        where !Use.reading.usedPermissions.contains(permission) {
            _ = clinux_unlock_byte(descriptor, Self.usedBase + permission)
        }
    }

    /// Whether the path still names the file that is locked.
    package var isInPlace: Bool {
        descriptor.withLock { descriptor in
            var mine = stat()
            var named = stat()
            guard let descriptor, fstat(descriptor, &mine) == 0, stat(path, &named) == 0 else {
                return false
            }
            return mine.st_dev == named.st_dev && mine.st_ino == named.st_ino
        }
    }

    /// What the system says of the locked file.
    package struct Status: Sendable {
        package let sizeBytes: UInt64
        package let inode: UInt64
        /// When its content last changed, in nanoseconds since 1970.
        package let modifiedNanoseconds: Int64
        package let isBlockDevice: Bool
    }

    /// Asks the system about the locked file.
    package func status() throws(BlockError) -> Status {
        try withDescriptor("ask the status") { (descriptor) throws(BlockError) in
            var status = stat()
            let size = clinux_size(descriptor)
            guard fstat(descriptor, &status) == 0, size >= 0 else {
                throw .system("ask the status", on: path, errno: errno)
            }
            return Status(
                sizeBytes: UInt64(size), inode: UInt64(status.st_ino),
                modifiedNanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000
                    + Int64(status.st_mtim.tv_nsec),
                isBlockDevice: status.st_mode & S_IFMT == S_IFBLK)
        }
    }

    /// Makes the file durable, and also its times, which a device's flush may leave out. Blocks.
    package func flush() throws(BlockError) {
        try withDescriptor("flush") { (descriptor) throws(BlockError) in
            guard fsync(descriptor) == 0 else { throw .system("flush", on: path, errno: errno) }
        }
    }

    private func withDescriptor<T>(
        _ operation: String, _ body: (Int32) throws(BlockError) -> T
    ) throws(BlockError) -> T {
        try descriptor.withLock { (descriptor) throws(BlockError) in
            guard let descriptor else {
                throw BlockError(.invalid, operation, on: path, detail: "it is not locked any more")
            }
            return try body(descriptor)
        }
    }

    private func take(_ byte: Int64, _ use: Use, _ descriptor: Int32) throws(BlockError) {
        guard clinux_lock_byte(descriptor, byte) != 0 else { return }
        if use == .reading, Self.meansNoLocks(errno) { return }
        // Only a program that follows other rules locks such a byte for itself alone.
        if errno == EAGAIN || errno == EACCES { throw conflict("has locked this image") }
        throw .system("lock", on: path, errno: errno)
    }

    private func check(_ use: Use, _ descriptor: Int32) throws(BlockError) {
        var attempt = 1
        while let problem = try conflictingUse(use, descriptor) {
            guard attempt < Self.attempts else { throw conflict(problem) }
            attempt += 1
            usleep(Self.pauseMicroseconds)
        }
    }

    private func conflictingUse(
        _ use: Use, _ descriptor: Int32
    ) throws(BlockError) -> String? {
        for permission in use.forbiddenPermissions
        where try isLocked(Self.usedBase + permission, descriptor) {
            return "has this image open for writing"
        }
        for permission in use.usedPermissions
        where try isLocked(Self.forbiddenBase + permission, descriptor) {
            return "has this image open and does not share it with a writer"
        }
        return nil
    }

    private func isLocked(_ byte: Int64, _ descriptor: Int32) throws(BlockError) -> Bool {
        let answer = clinux_is_byte_locked(descriptor, byte)
        if answer >= 0 { return answer == 1 }
        // A writer has found out already.
        if Self.meansNoLocks(errno) { return false }
        throw .system("lock", on: path, errno: errno)
    }

    /// Whether the file system has no locks: then nobody can have locked anything, and whoever only
    /// reads, perhaps from the last copy, is not kept from it.
    private static func meansNoLocks(_ number: Int32) -> Bool {
        number == ENOLCK || number == EOPNOTSUPP || number == ENOSYS
    }

    private func conflict(_ problem: String) -> BlockError {
        BlockError(
            .busy, "lock", on: path,
            detail: "another program, or another volume, \(problem): end that use "
                + "(`fuser -v \(path)` shows whose it is) and try again")
    }
}

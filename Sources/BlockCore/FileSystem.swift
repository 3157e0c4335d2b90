import Glibc

// The seam between a repository and its files, as `StorageFile` is the one below an image.
//
// `HostFileSystem` is the one implementation of the product. Tests put another in its place, which
// fails or holds the operation that it is told to.

/// What is done to files by their names. All of it may block.
package protocol FileSystem: Sendable {
    /// Opens, or creates, the file at `path`.
    func open(_ path: String, _ access: HostFile.Access) throws(BlockError) -> any StorageFile

    /// A file without a name in `directory`, gone when the last reference is.
    func openTemporary(in directory: String) throws(BlockError) -> any StorageFile

    /// Opens, or creates, the file at `path` and locks it whole, for as long as the reference
    /// lives. Throws `busy` if another has it.
    func lock(_ path: String, _ access: HostFile.Access) throws(BlockError) -> HostFile

    /// Creates the directory `path` and what leads to it; no error if it exists.
    func createDirectory(_ path: String) throws(BlockError)

    /// The names in `directory`, sorted, without `.` and `..`.
    func names(in directory: String) throws(BlockError) -> [String]

    /// Whether there is something at `path`. Throws if that cannot be told.
    func exists(_ path: String) throws(BlockError) -> Bool

    /// Puts `source` in the place of `destination` at one instant.
    func rename(_ source: String, to destination: String) throws(BlockError)

    /// Removes the file at `path`; no error if there is none.
    func removeFile(_ path: String) throws(BlockError)

    /// Makes what was created, renamed or removed in `directory` durable.
    func flush(_ directory: String) throws(BlockError)

    /// The bytes that the file system of `path` has free for this process.
    func freeBytes(at path: String) throws(BlockError) -> UInt64
}

extension FileSystem {
    /// The whole content of the file at `path`, which must not exceed `limitBytes`.
    package func readFile(_ path: String, limitBytes: Int) throws(BlockError) -> [UInt8] {
        let file = try open(path, .readOnly)
        let size = try file.sizeBytes()
        guard size <= UInt64(limitBytes) else {
            throw BlockError(
                .corrupt, "read", on: path, detail: "\(size) bytes, at most \(limitBytes) expected")
        }
        var bytes = [UInt8](repeating: 0, count: Int(size))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        return bytes
    }

    /// Replaces the file at `path` by `bytes`, durably and at one instant: a temporary file is
    /// written, flushed and renamed, and the directory flushed.
    package func replaceFile(_ path: String, with bytes: [UInt8]) throws(BlockError) {
        let temporary = "\(path).\(getpid()).\(UInt32.random(in: 0 ... .max)).tmp"
        do throws(BlockError) {
            let file = try open(temporary, .create)
            try bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: 0, from: bytes)
            }
            try file.flush()
            try rename(temporary, to: path)
        } catch {
            try? removeFile(temporary)
            throw error
        }
        try flush(HostDirectory.parent(of: path))
    }
}

/// The files of the host.
package struct HostFileSystem: FileSystem {
    package init() {}

    package func open(
        _ path: String, _ access: HostFile.Access
    ) throws(BlockError) -> any StorageFile {
        try HostFile(path: path, access: access)
    }

    package func openTemporary(in directory: String) throws(BlockError) -> any StorageFile {
        try HostFile(temporaryIn: directory)
    }

    package func lock(
        _ path: String, _ access: HostFile.Access
    ) throws(BlockError) -> HostFile {
        let file = try HostFile(path: path, access: access)
        try file.lock(exclusive: true)
        return file
    }

    package func createDirectory(_ path: String) throws(BlockError) {
        try HostDirectory.create(path)
    }

    package func names(in directory: String) throws(BlockError) -> [String] {
        try HostDirectory.names(in: directory)
    }

    package func exists(_ path: String) throws(BlockError) -> Bool {
        var status = stat()
        if stat(path, &status) == 0 { return true }
        let number = errno
        guard number == ENOENT || number == ENOTDIR else {
            throw .system("look for", on: path, errno: number)
        }
        return false
    }

    package func rename(_ source: String, to destination: String) throws(BlockError) {
        try HostDirectory.rename(source, to: destination)
    }

    package func removeFile(_ path: String) throws(BlockError) {
        try HostDirectory.removeFile(path)
    }

    package func flush(_ directory: String) throws(BlockError) {
        try HostDirectory.flush(directory)
    }

    package func freeBytes(at path: String) throws(BlockError) -> UInt64 {
        try HostDirectory.freeBytes(at: path)
    }
}

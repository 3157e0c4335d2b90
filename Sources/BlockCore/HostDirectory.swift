import Glibc

/// What is done to names in directories of the host. All of it may block.
package enum HostDirectory {
    /// Creates `path` and what leads to it, for its owner alone, durably: a file in it is no safer
    /// than its name. No error if it exists.
    package static func create(_ path: String) throws(BlockError) {
        var prefix = path.hasPrefix("/") ? "/" : ""
        for part in path.split(separator: "/") {
            prefix += prefix.isEmpty || prefix.hasSuffix("/") ? "\(part)" : "/\(part)"
            if mkdir(prefix, 0o700) == 0 {
                try flush(parent(of: prefix))
            } else if errno != EEXIST {
                throw .system("create the directory", on: prefix, errno: errno)
            }
        }
    }

    /// The names in `path`, sorted, without `.` and `..`.
    package static func names(in path: String) throws(BlockError) -> [String] {
        guard let stream = opendir(path) else {
            throw .system("list the directory", on: path, errno: errno)
        }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Whether there is something at `path`.
    package static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    /// Puts `source` in the place of `destination` at one instant.
    package static func rename(_ source: String, to destination: String) throws(BlockError) {
        guard Glibc.rename(source, destination) == 0 else {
            throw .system("rename to \(destination)", on: source, errno: errno)
        }
    }

    /// Gives the file at `source` a second name, which must be free.
    package static func link(_ source: String, to destination: String) throws(BlockError) {
        guard Glibc.link(source, destination) == 0 else {
            throw .system("link to \(destination)", on: source, errno: errno)
        }
    }

    /// The directory in which `path` is a name.
    package static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Removes the file at `path`; no error if there is none.
    package static func removeFile(_ path: String) throws(BlockError) {
        guard unlink(path) == 0 || errno == ENOENT else {
            throw .system("remove", on: path, errno: errno)
        }
    }

    /// How long ago the content of the file at `path` last changed; nil if there is none.
    package static func ageSeconds(of path: String) -> Int? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return time(nil) - status.st_mtim.tv_sec
    }

    /// Makes what was created, renamed or removed in `path` durable.
    package static func flush(_ path: String) throws(BlockError) {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system("open", on: path, errno: errno) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system("flush", on: path, errno: errno) }
    }

    /// The bytes that the file system of `path` has free for this process.
    package static func freeBytes(at path: String) throws(BlockError) -> UInt64 {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else {
            throw .system("ask for free space", on: path, errno: errno)
        }
        return UInt64(status.f_bavail) * UInt64(status.f_frsize)
    }

    /// Replaces the file at `path` by `bytes`, durably and at one instant.
    package static func replaceFile(_ path: String, with bytes: [UInt8]) throws(BlockError) {
        try HostFileSystem().replaceFile(path, with: bytes)
    }

    /// The whole content of the file at `path`, which must not exceed `limitBytes`.
    package static func readFile(_ path: String, limitBytes: Int) throws(BlockError) -> [UInt8] {
        try HostFileSystem().readFile(path, limitBytes: limitBytes)
    }
}

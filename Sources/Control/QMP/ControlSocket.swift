internal import Glibc

/// The unix socket of an agent: its checks before anybody binds or connects.
enum ControlSocket {
    /// The longest path that the address structure holds, in bytes.
    static let pathBytesMax = 107

    /// Throws if no socket can have this path.
    static func checkPath(_ path: String) throws(ControlError) {
        guard path.utf8.count <= pathBytesMax, !path.utf8.contains(0) else {
            throw .generic(
                "\(path): the path of a socket has at most \(pathBytesMax) bytes, this one "
                    + "\(path.utf8.count): use a shorter state directory")
        }
    }

    /// A descriptor bound to `path`, with mode 0600. A socket that a dead agent left there is
    /// removed; anything else that is in the way is an error.
    static func bind(to path: String) throws(ControlError) -> Int32 {
        try checkPath(path)
        try removeStale(path)
        let descriptor = socket(AF_UNIX, streamType | cloexec, 0)
        guard descriptor >= 0 else { throw failure("cannot create a socket", path) }
        // The mode of the descriptor becomes that of the file, before anybody can connect.
        guard fchmod(descriptor, 0o600) == 0,
            withAddress(path, { Glibc.bind(descriptor, $0, $1) }) == 0
        else {
            let error = failure("cannot bind the control socket", path)
            close(descriptor)
            throw error
        }
        return descriptor
    }

    private static func removeStale(_ path: String) throws(ControlError) {
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw .generic("\(path) is in the way and no socket: move it away")
        }
        let descriptor = socket(AF_UNIX, streamType | cloexec, 0)
        guard descriptor >= 0 else { throw failure("cannot create a socket", path) }
        defer { close(descriptor) }
        guard withAddress(path, { connect(descriptor, $0, $1) }) != 0 else {
            throw ControlError(
                "another agent answers on \(path): use it, or end it first", reason: .locked)
        }
        guard errno == ECONNREFUSED else { throw failure("cannot probe the control socket", path) }
        guard unlink(path) == 0 else { throw failure("cannot remove the stale socket", path) }
    }

    private static let streamType = Int32(SOCK_STREAM.rawValue)
    private static let cloexec = Int32(SOCK_CLOEXEC.rawValue)

    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }

    private static func failure(_ what: String, _ path: String) -> ControlError {
        .generic("\(what) \(path): \(String(cString: strerror(errno)))")
    }
}

extension ControlError {
    init(_ description: String, reason: ControlErrorReason) {
        self.init(.generic, description, reason: reason)
    }
}

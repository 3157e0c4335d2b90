import BlockCore
import CLinux
import Glibc

/// A socket that accepts clients.
final class NBDListener: Sendable {
    /// Where it is: of TCP with the port that was found.
    let place: String
    /// Of a socket in the file system.
    private let path: String?
    private let descriptor: Int32

    /// Listens at `address`.
    convenience init(_ address: NBDAddress) throws(BlockError) {
        switch address {
        case .unix(let path): try self.init(path: path)
        case .loopback(let host, let port): try self.init(host: host, port: port)
        }
    }

    private init(host: String, port: String) throws(BlockError) {
        path = nil
        descriptor = try NBDAddress.bindLoopback(host: host, port: port)
        place =
            NBDAddress.loopback(
                host: host, port: NBDAddress.port(of: descriptor).map(String.init) ?? port
            ).description
        guard listen(descriptor, 128) == 0 else {
            throw .system("listen", on: place, errno: errno)
        }
    }

    /// Listens at `path`. A socket that a dead process left there is replaced; one that somebody
    /// listens on, and anything that is no socket, throws `busy`.
    init(path: String) throws(BlockError) {
        self.path = path
        place = path
        let descriptor = try Self.socket(path)
        do throws(BlockError) {
            if try !Self.bind(descriptor, path) {
                try Self.removeStale(path)
                guard try Self.bind(descriptor, path) else { throw Self.busy(path) }
            }
            guard listen(descriptor, 128) == 0 else {
                throw .system("listen", on: path, errno: errno)
            }
        } catch {
            close(descriptor)
            throw error
        }
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Waits for the next client. Throws when the listener was stopped or the system refuses.
    func accept() throws(BlockError) -> NBDSocket {
        while true {
            let client = clinux_accept(descriptor)
            if client >= 0 {
                if path == nil { sendAtOnce(client) }
                return NBDSocket(descriptor: client)
            }
            if errno == EINTR || errno == ECONNABORTED { continue }
            guard errno == EMFILE else { throw .system("accept a client", on: place, errno: errno) }
            throw BlockError(
                .busy, "accept a client", on: place, errno: EMFILE,
                detail:
                    "the limit is \(DescriptorLimit.present); clients wait until others have gone, "
                    + "or give the agent more (LimitNOFILE of its unit) and start it anew")
        }
    }

    /// Takes the socket away from the file system and ends a waiting `accept`.
    func stop() {
        if let path { unlink(path) }
        _ = shutdown(descriptor, Int32(SHUT_RDWR))
    }

    /// A reply is whole when it is sent: there is nothing to wait for.
    private func sendAtOnce(_ client: Int32) {
        var yes: Int32 = 1
        setsockopt(
            client, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
    }

    // False if something is at `path`.
    private static func bind(_ descriptor: Int32, _ path: String) throws(BlockError) -> Bool {
        let status = try withAddress(path) { Glibc.bind(descriptor, $0, $1) }
        if status == 0 { return true }
        guard errno == EADDRINUSE else { throw .system("listen", on: path, errno: errno) }
        return false
    }

    private static func removeStale(_ path: String) throws(BlockError) {
        var status = stat()
        guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else {
            throw BlockError(
                .busy, "listen", on: path, detail: "something that is no socket is there")
        }
        let probe = try socket(path)
        defer { close(probe) }
        guard try withAddress(path, { connect(probe, $0, $1) }) != 0, errno == ECONNREFUSED
        else { throw busy(path) }
        try HostDirectory.removeFile(path)
    }

    private static func busy(_ path: String) -> BlockError {
        BlockError(.busy, "listen", on: path, detail: "another process listens there")
    }

    private static func socket(_ path: String) throws(BlockError) -> Int32 {
        let descriptor = Glibc.socket(
            AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system("open a socket", on: path, errno: errno) }
        return descriptor
    }

    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(BlockError) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let capacity = MemoryLayout.size(ofValue: address.sun_path)
        guard path.utf8.count < capacity, !path.isEmpty else {
            throw BlockError(
                .invalid, "listen", on: path,
                detail: "the path of a socket has 1 to \(capacity - 1) bytes")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        return withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}

import BlockCore
import Glibc

/// Where an NBD server listens.
package enum NBDAddress: Sendable {
    /// A socket in the file system.
    case unix(path: String)
    /// A TCP port of this host's own: without encryption nothing leaves it.
    case loopback(host: String, port: String)
}

extension NBDAddress: CustomStringConvertible {
    package var description: String {
        switch self {
        case .unix(let path): path
        case .loopback(let host, let port):
            host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        }
    }
}

extension NBDAddress {
    /// A socket that is bound to the address, which is a TCP port.
    static func bindLoopback(host: String, port: String) throws(BlockError) -> Int32 {
        let place = NBDAddress.loopback(host: host, port: port).description
        guard let number = UInt16(port) else {
            throw BlockError(
                .invalid, "listen", on: place, detail: "a port is a number from 0 to 65535")
        }
        if var address = v4Address(host, number) {
            return try bind(to: &address, AF_INET, place)
        }
        if var address = v6Address(host, number) {
            return try bind(to: &address, AF_INET6, place)
        }
        throw BlockError(
            .unsupported, "listen", on: place,
            detail: "what goes over TCP is not encrypted, so that only this host may hear it: "
                + "use 127.0.0.1, ::1 or localhost, or a unix socket")
    }

    /// The port that was bound, where any would do.
    static func port(of descriptor: Int32) -> UInt16? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                getsockname(descriptor, $0, &length)
            }
        }
        guard status == 0 else { return nil }
        // Both families have the port in the same place.
        return withUnsafeBytes(of: storage) {
            UInt16(bigEndian: $0.load(fromByteOffset: 2, as: UInt16.self))
        }
    }

    private static func v4Address(_ host: String, _ port: UInt16) -> sockaddr_in? {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        let text = host == "localhost" ? "127.0.0.1" : host
        guard inet_pton(AF_INET, text, &address.sin_addr) == 1,
            UInt32(bigEndian: address.sin_addr.s_addr) >> 24 == 127
        else { return nil }
        return address
    }

    private static func v6Address(_ host: String, _ port: UInt16) -> sockaddr_in6? {
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        guard inet_pton(AF_INET6, host, &address.sin6_addr) == 1 else { return nil }
        let isLoopback = withUnsafeBytes(of: address.sin6_addr) { bytes in
            bytes.dropLast().allSatisfy { $0 == 0 } && bytes.last == 1
        }
        return isLoopback ? address : nil
    }

    private static func bind<Address>(
        to address: inout Address, _ family: Int32, _ place: String
    ) throws(BlockError) -> Int32 {
        let descriptor = socket(
            family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system("open a socket", on: place, errno: errno) }
        var yes: Int32 = 1
        setsockopt(
            descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        let status = withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(descriptor, $0, socklen_t(MemoryLayout<Address>.size))
            }
        }
        guard status == 0 else {
            let error = BlockError.system("listen", on: place, errno: errno)
            close(descriptor)
            throw error
        }
        return descriptor
    }
}

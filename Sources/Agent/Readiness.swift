import Glibc

/// Tells systemd, if it started the agent, how far it is (sd_notify's protocol: a datagram to the
/// socket that NOTIFY_SOCKET names).
enum Readiness {
    static func notify(_ state: String) {
        guard let name = getenv("NOTIFY_SOCKET").map({ String(cString: $0) }), !name.isEmpty
        else { return }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(name.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
        withUnsafeMutableBytes(of: &address.sun_path) { path in
            path.copyBytes(from: bytes)
            // A leading @ stands for the zero byte of an abstract name.
            if bytes.first == UInt8(ascii: "@") { path[0] = 0 }
        }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let length = MemoryLayout<sa_family_t>.size + bytes.count
        withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { socketAddress in
                _ = sendto(
                    descriptor, state, state.utf8.count, Int32(MSG_NOSIGNAL),
                    socketAddress, socklen_t(length))
            }
        }
    }
}

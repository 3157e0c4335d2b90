import Foundation
import TestSupport

/// A connection to the control socket of an agent, on which one command follows the other.
final class ControlConnection {
    /// The agent said no.
    struct Refusal: Error, CustomStringConvertible {
        let description: String
    }

    private let descriptor: Int32
    private var received = Data()

    /// Nil while nobody answers there.
    init?(socket path: String) throws {
        descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, size) }
        }
        guard result == 0 else {
            close(descriptor)
            return nil
        }
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        _ = try line()
        try tell("qmp_capabilities")
    }

    deinit { close(descriptor) }

    /// Runs a command and returns its result.
    @discardableResult
    func tell(_ command: String, _ arguments: [String: Any] = [:]) throws -> Any {
        var request = try JSONSerialization.data(
            withJSONObject: ["execute": command, "arguments": arguments])
        request.append(0x0A)
        try request.withUnsafeBytes { bytes in
            guard
                send(descriptor, bytes.baseAddress!, bytes.count, Int32(MSG_NOSIGNAL))
                    == bytes.count
            else { throw Tool.Failure(description: "\(command): the agent is gone") }
        }
        while true {
            guard let answer = try JSONSerialization.jsonObject(with: line()) as? [String: Any]
            else { throw Tool.Failure(description: "\(command): no object") }
            if let result = answer["return"] { return result }
            if let error = answer["error"] as? [String: Any] {
                throw Refusal(description: "\(command): \(error["desc"] ?? error)")
            }
        }
    }

    /// As `tell`, of a command that answers with a list of objects.
    func list(_ command: String, _ arguments: [String: Any] = [:]) throws -> [[String: Any]] {
        try tell(command, arguments) as? [[String: Any]] ?? []
    }

    private func line() throws -> Data {
        while true {
            if let end = received.firstIndex(of: 0x0A) {
                defer { received.removeSubrange(...end) }
                return Data(received[..<end])
            }
            var piece = [UInt8](repeating: 0, count: 1 << 16)
            let count = recv(descriptor, &piece, piece.count, 0)
            guard count > 0 else {
                throw Tool.Failure(description: "the agent ended, or does not answer in a minute")
            }
            received.append(contentsOf: piece[..<count])
        }
    }
}

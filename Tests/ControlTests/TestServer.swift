import Foundation
import Logging
import Synchronization

@testable import Control

/// A server in a folder of its own, for the length of one test.
struct TestServer {
    let socketPath: String
    let server: QMPServer

    /// Runs `body` against a server that answers `commands`, then ends the server.
    static func run<Result>(
        _ commands: CommandTable = CommandTable(), limits: QMPLimits = QMPLimits(),
        events: QMPEventHub = QMPEventHub(), _ body: (TestServer) async throws -> Result
    ) async throws -> Result {
        try await inTemporaryFolder { folder in
            let (listening, onListening) = AsyncStream<Void>.makeStream()
            let server = QMPServer(
                socketPath: "\(folder)/control.sock", commands: commands, events: events,
                log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, limits: limits,
                onListening: { onListening.finish() })
            let running = Task {
                defer { onListening.finish() }
                try await server.run()
            }
            for await _ in listening {}
            do {
                let result = try await body(
                    TestServer(socketPath: "\(folder)/control.sock", server: server))
                running.cancel()
                try await running.value
                return result
            } catch {
                running.cancel()
                try await running.value
                throw error
            }
        }
    }

    /// Runs `body` with an empty folder of a short path, which is removed afterwards.
    static func inTemporaryFolder<Result>(
        _ body: (String) async throws -> Result
    ) async throws -> Result {
        let folder = "\(NSTemporaryDirectory())/tm-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        return try await body(folder)
    }
}

/// A plain blocking connection, for what no proper client would send or leave unread.
final class RawConnection: Sendable {
    private let descriptor: Int32

    init(to path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard status == 0 else { throw ControlError.generic("connect: \(errno)") }
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        var done = 0
        while done < bytes.count {
            let count = bytes[done...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count <= 0 { return }
            done += count
        }
    }

    /// Says that nothing more will be sent.
    func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// What comes until the peer closes, or until `isEnough` says so.
    func read(
        until isEnough: @escaping @Sendable (String) -> Bool = { _ in false }
    ) async -> String {
        await onOwnThread { [self] in
            var bytes: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 65536)
            while true {
                let count = recv(descriptor, &chunk, chunk.count, 0)
                if count <= 0 { break }
                bytes += chunk[..<count]
                if isEnough(String(decoding: bytes, as: UTF8.self)) { break }
            }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// The next `count` messages.
    func readLines(_ count: Int) async -> [JSONValue] {
        let text = await read { $0.components(separatedBy: "\r\n").count > count }
        return text.components(separatedBy: "\r\n").compactMap {
            try? JSONParser.parse(Array($0.utf8))
        }
    }
}

/// Runs `body`, which may block, where it keeps no task from running.
func onOwnThread<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}

/// What concurrent parts of a test have seen, in order.
final class Recorder<Element: Sendable>: Sendable {
    private let elements = Mutex<[Element]>([])

    var all: [Element] { elements.withLock { $0 } }

    func append(_ element: Element) { elements.withLock { $0.append(element) } }
}

import Foundation
import Logging
import Testing

@testable import Control

/// The file of the control socket.
struct SocketTests {
    private static func server(_ path: String) -> QMPServer {
        QMPServer(
            socketPath: path, commands: CommandTable(),
            log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    }

    @Test func aPathThatIsTooLongIsAClearError() async throws {
        let path = "/tmp/" + String(repeating: "x", count: 103)
        let error = await #expect(throws: ControlError.self) { try await Self.server(path).run() }
        #expect(error?.description.contains("at most 107 bytes, this one 108") == true)
        await #expect(throws: ControlError.self) { try await QMPClient.connect(to: path) }
    }

    @Test func aSocketThatNobodyAnswersIsReplaced() async throws {
        try await TestServer.inTemporaryFolder { folder in
            let path = "\(folder)/control.sock"
            close(try ControlSocket.bind(to: path))
            let second = try ControlSocket.bind(to: path)
            close(second)
        }
    }

    @Test func aServerThatAnswersIsLeftAlone() async throws {
        try await TestServer.run { test in
            let error = await #expect(throws: ControlError.self) {
                try await Self.server(test.socketPath).run()
            }
            #expect(error?.reason == .locked)
            let client = try await QMPClient.connect(to: test.socketPath)
            #expect(try await client.execute(QueryVersion.self) == ControlVersion.info)
        }
    }

    @Test func aFileInTheWayIsKept() async throws {
        try await TestServer.inTemporaryFolder { folder in
            let path = "\(folder)/control.sock"
            try "precious".write(toFile: path, atomically: true, encoding: .utf8)
            let error = await #expect(throws: ControlError.self) {
                try await Self.server(path).run()
            }
            #expect(error?.description.contains("no socket") == true)
            #expect(try String(contentsOfFile: path, encoding: .utf8) == "precious")
        }
    }

    @Test func withoutAnAgentTheClientSaysSo() async throws {
        try await TestServer.inTemporaryFolder { folder in
            let path = "\(folder)/control.sock"
            await #expect(throws: QMPClientError.noAgent(path: path)) {
                try await QMPClient.connect(to: path)
            }
            close(try ControlSocket.bind(to: path))
            await #expect(throws: QMPClientError.noAgent(path: path)) {
                try await QMPClient.connect(to: path)
            }
        }
    }
}

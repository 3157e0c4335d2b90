import Foundation
import Testing

@testable import Control

/// The client against agents that misbehave.
struct ClientTests {
    @Test func aCallUnderWayFailsWhenTheAgentGoes() async throws {
        var table = CommandTable()
        let (begun, begin) = AsyncStream<Void>.makeStream()
        table.register(Quit.self) { _ in
            begin.finish()
            try await Task.sleep(for: .seconds(1))
            return Nothing()
        }
        try await TestServer.run(table) { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            let call = Task { try await client.execute(Quit.self) }
            for await _ in begun {}
            await client.close()
            await #expect(throws: QMPClientError.closed(path: test.socketPath)) {
                try await call.value
            }
            await #expect(throws: QMPClientError.closed(path: test.socketPath)) {
                try await client.execute(QueryVersion.self)
            }
        }
    }

    @Test func aCancelledCallReturnsAtOnce() async throws {
        let (gate, open) = AsyncStream<Void>.makeStream()
        let (begun, begin) = AsyncStream<Void>.makeStream()
        var table = CommandTable()
        table.register(Quit.self) { _ in
            begin.finish()
            for await _ in gate {}
            return Nothing()
        }
        try await TestServer.run(table) { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            let call = Task { try await client.execute(Quit.self) }
            for await _ in begun {}
            call.cancel()
            await #expect(throws: CancellationError.self) { try await call.value }
            open.finish()
            #expect(try await client.execute(QueryVersion.self) == ControlVersion.info)
        }
    }

    @Test func theEventStreamEndsWithTheConnection() async throws {
        try await TestServer.run { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            test.server.broadcast(QMPEvent(.shutdown))
            #expect(try await client.execute(QueryVersion.self) == ControlVersion.info)
            await client.close()
            var names: [String] = []
            for try await event in client.events { names.append(event.name) }
            #expect(names == ["SHUTDOWN"])
        }
    }

    @Test func eventsThatNobodyReadsEndTheStreamInsteadOfFillingMemory() async throws {
        try await TestServer.run { test in
            let client = try await QMPClient.connect(to: test.socketPath, eventsMax: 10)
            for _ in 0..<20 { test.server.broadcast(QMPEvent(.shutdown)) }
            #expect(try await client.execute(QueryVersion.self) == ControlVersion.info)
            await #expect(throws: QMPClientError.eventsLost) {
                for try await _ in client.events {}
            }
        }
    }
}

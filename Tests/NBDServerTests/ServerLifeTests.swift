import BlockCore
import Foundation
import TestSupport
import Testing

@testable import NBDServer

@Suite struct ServerLifeTests {
    private let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: false)

    @Test func removalWaitsForRequestsInFlightAndAnswersThem() async throws {
        let export = DeviceExport("disk", memory)
        let other = DeviceExport("other", MemoryDevice(lengthBytes: 4096))
        try await ServerFixture.run([export, other]) { fixture in
            let bystander = try TestClient(connectingTo: fixture.socketPath)
            try bystander.open("other")
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            #expect(fixture.exports.connectionCount(of: "disk") == 1)
            memory.hold()
            try client.sendRequest(
                NBDRequest(.write, cookie: 3, offset: 0, lengthBytes: 4096), pattern(4096))
            try await waitUntil { memory.heldCount == 1 }

            let exports = fixture.exports
            let removal = Task { await exports.removeExport("disk") }
            try await waitUntil { exports.connectionCount(of: "disk") == nil }
            let late = try TestClient(connectingTo: fixture.socketPath)
            try late.greet()
            try late.sendOption(7, infoPayload("disk"))
            #expect(try late.optionReply(to: 7).type == 0x8000_0006)
            #expect(export.closedCount == 0)

            memory.release()
            #expect(try client.reply().error == 0)
            #expect(client.isEnded())
            #expect(await removal.value)
            #expect(export.closedCount == 1)
            #expect(memory.bytes(0, 4096) == pattern(4096))
            let read = NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 4096)
            #expect(try bystander.exchange(read).error == 0)
            #expect(await !exports.removeExport("disk"))
        }
    }

    @Test func removalCutsAClientThatDoesNotRead() async throws {
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            for cookie in 0..<100 {
                try client.sendRequest(
                    NBDRequest(
                        .read, cookie: UInt64(cookie), offset: 0, lengthBytes: 1 << 20))
            }
            #expect(await fixture.exports.removeExport("disk", drainSeconds: 0))
            #expect(export.closedCount == 1)
        }
    }

    @Test func stoppingAnswersWhatIsInFlightAndUnlinks() async throws {
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let idle = try TestClient(connectingTo: fixture.socketPath)
            try idle.open("disk")
            let early = try TestClient(connectingTo: fixture.socketPath)
            try early.greet()
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            memory.hold()
            try client.sendRequest(NBDRequest(.flush, cookie: 8, offset: 0, lengthBytes: 0))
            try await waitUntil { memory.heldCount == 1 }
            let stopping = Task { await fixture.server.stop() }
            #expect(idle.isEnded())
            #expect(early.isEnded())
            memory.release()
            #expect(try client.reply() == TestClient.Reply(cookie: 8, type: 0))
            #expect(client.isEnded())
            await stopping.value
            #expect(!FileManager.default.fileExists(atPath: fixture.socketPath))
        }
    }

    @Test func aClientThatDoesNotReadDoesNotKeepTheServerFromStopping() async throws {
        var limits = NBDLimits()
        limits.drainSeconds = 1
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export], limits: limits) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            for cookie in 0..<100 {
                try client.sendRequest(
                    NBDRequest(
                        .read, cookie: UInt64(cookie), offset: 0, lengthBytes: 1 << 20))
            }
            let start = ContinuousClock.now
            await fixture.server.stop()
            #expect(start.duration(to: .now) < .seconds(3))
            #expect(export.closedCount == 1 && fixture.reports.isEmpty)
        }
    }

    /// Descriptors run out for clients first: those that are here go on, those that come wait, and
    /// the thread that accepts does not turn in circles meanwhile.
    @Test func clientsForWhomThereIsNoDescriptorWaitForOne() async throws {
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let early = try TestClient(connectingTo: fixture.socketPath)
            try early.open("disk")
            let limit = DescriptorShortage()
            defer { limit.end() }
            // Its own socket takes the last one.
            let late = try TestClient(connectingTo: fixture.socketPath)
            try await waitUntil { fixture.reports.contains { $0.contains("LimitNOFILE") } }
            let used = clock()
            try await Task.sleep(for: .milliseconds(500))
            // In microseconds.
            #expect(clock() - used < 250_000)
            #expect(
                try early.exchange(NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 512)).error
                    == 0)
            limit.end()
            try late.open("disk")
        }
    }

    @Test func aStuckDeviceDoesNotKeepTheServerFromStopping() async throws {
        var limits = NBDLimits()
        limits.drainSeconds = 0
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export], limits: limits) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            memory.hold()
            try client.sendRequest(NBDRequest(.flush, cookie: 8, offset: 0, lengthBytes: 0))
            try await waitUntil { memory.heldCount == 1 }
            await fixture.server.stop()
            #expect(fixture.reports.count == 1)
            #expect(export.closedCount == 0)
            memory.release()
            try await waitUntil { export.closedCount == 1 }
        }
    }

    @Test func aSocketThatIsListenedOnIsNotTakenAway() async throws {
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let second = NBDServer(
                socketPath: fixture.socketPath, exports: fixture.exports, report: { _ in })
            let error = #expect(throws: BlockError.self) { try second.start() }
            #expect(error?.kind == .busy)
            try TestClient(connectingTo: fixture.socketPath).open("disk")
        }
    }

    @Test func aSocketOfADeadProcessIsReplacedAndAFileIsNot() async throws {
        let folder = NSTemporaryDirectory() + "tidemark-nbd-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: folder) }
        let path = folder + "/nbd.sock"
        let exports = NBDExportTable()
        try exports.addExport(DeviceExport("disk", memory))

        try "precious".write(toFile: path, atomically: true, encoding: .utf8)
        let refused = NBDServer(socketPath: path, exports: exports, report: { _ in })
        let error = #expect(throws: BlockError.self) { try refused.start() }
        #expect(error?.kind == .busy)
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "precious")
        try FileManager.default.removeItem(atPath: path)

        _ = try tool(
            "/usr/bin/python3", "-c",
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1])", path)
        let server = NBDServer(socketPath: path, exports: exports, report: { _ in })
        try server.start()
        try TestClient(connectingTo: path).open("disk")
        await server.stop()
    }

    @Test func impossiblePathsAreRefused() {
        for path in ["", "/tmp/" + String(repeating: "x", count: 200), "/nowhere/at/all.sock"] {
            let server = NBDServer(
                socketPath: path, exports: NBDExportTable(), report: { _ in })
            #expect(throws: BlockError.self) { try server.start() }
        }
    }

    @Test func namesAreExportedOnce() throws {
        let exports = NBDExportTable()
        try exports.addExport(DeviceExport("disk", memory))
        let error = #expect(throws: BlockError.self) {
            try exports.addExport(DeviceExport("disk", memory))
        }
        #expect(error?.kind == .busy)
    }
}

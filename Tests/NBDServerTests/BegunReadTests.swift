import BlockCore
import Foundation
import Testing

@testable import NBDServer

/// Reads that the now face has begun and that wait for the medium.
@Suite struct BegunReadTests {
    private static let perWaiter = NBDBegunReads.readsPerWaiter

    private func serve(
        _ device: ColdDevice, _ body: (TestClient) async throws -> Void
    ) async throws {
        try await ServerFixture.run([DeviceExport("disk", device)]) { fixture in
            // Nothing may be left waiting, whatever the test finds, or the server does not end.
            defer { device.arrive(0..<Int(device.lengthBytes) / ColdDevice.pageBytes) }
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            try await body(client)
        }
    }

    private func send(_ client: TestClient, pages: Range<Int>) throws {
        for page in pages { try send(client, page: page, count: 1) }
    }

    private func send(_ client: TestClient, page: Int, count: Int) throws {
        let bytes = UInt64(ColdDevice.pageBytes)
        try client.sendRequest(
            NBDRequest(
                .read, cookie: UInt64(page), offset: UInt64(page) * bytes,
                lengthBytes: UInt64(count) * bytes))
    }

    private func expectPages(_ client: TestClient, _ pages: some Sequence<Int>) throws {
        var missing = Set(pages)
        while !missing.isEmpty {
            let reply = try client.reply()
            #expect(missing.remove(Int(reply.cookie)) != nil && reply.error == 0)
            #expect(reply.payload == ColdDevice.content(Int(reply.cookie)))
        }
    }

    private func wait(for condition: () -> Bool) async throws {
        for _ in 0..<10_000 where !condition() { try await Task.sleep(for: .milliseconds(1)) }
        try #require(condition())
    }

    @Test func whatHasArrivedIsAnsweredBeforeWhatHasNot() async throws {
        let device = ColdDevice(pages: 3)
        try await serve(device) { client in
            try send(client, pages: 0..<3)
            try await wait { device.waitingCount == 1 }
            device.arrive([1])
            device.arrive([0])
            try expectPages(client, 0..<2)
            device.arrive([2])
            try expectPages(client, 2..<3)
        }
    }

    @Test func whatIsCachedPassesWhatIsNot() async throws {
        let device = ColdDevice(pages: 2)
        device.arrive([1])
        try await serve(device) { client in
            try send(client, pages: 0..<2)
            try expectPages(client, 1..<2)
            device.arrive([0])
            try expectPages(client, 0..<1)
        }
    }

    @Test func aFewThreadsWaitForMany() async throws {
        let reads = 4 * Self.perWaiter
        let device = ColdDevice(pages: reads)
        try await serve(device) { client in
            try send(client, pages: 0..<reads)
            try await wait { device.waitingCount == 4 }
            device.arrive(0..<reads)
            try expectPages(client, 0..<reads)
        }
        #expect(device.waitingMax == 4)
    }

    @Test func moreReadsThanOneTurnAreAllAnswered() async throws {
        let reads = 1000
        let device = ColdDevice(pages: reads)
        try await serve(device) { client in
            for start in stride(from: 0, to: reads, by: 200) {
                try send(client, pages: start..<start + 200)
                try await wait { device.waitingCount > 0 }
                device.arrive(start..<start + 200)
                try expectPages(client, start..<start + 200)
            }
        }
    }

    @Test(arguments: [4, 64])
    func whatIsThereIsNotReadAgain(pages: Int) async throws {
        let device = ColdDevice(pages: pages)
        device.arrive(0..<3)
        try await serve(device) { client in
            try send(client, page: 0, count: pages)
            try await wait { device.waitingCount == 1 }
            device.arrive(3..<pages)
            let reply = try client.reply()
            #expect(reply.payload == (0..<pages).flatMap(ColdDevice.content))
        }
        #expect(device.laterOffsets == [UInt64(3 * ColdDevice.pageBytes)])
    }

    @Test func aFailureConcernsItsOwnReadAlone() async throws {
        let device = ColdDevice(pages: 3)
        try await serve(device) { client in
            try send(client, pages: 0..<3)
            try await wait { device.waitingCount == 1 }
            device.arrive([0], failing: true)
            #expect(try client.reply().error == 5)
            device.arrive(1..<3)
            try expectPages(client, 1..<3)
        }
    }

    @Test func aClientThatLeavesKeepsItsExportUntilItsReadsEnd() async throws {
        let device = ColdDevice(pages: Self.perWaiter)
        let export = DeviceExport("disk", device)
        try await ServerFixture.run([export]) { fixture in
            do {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                try send(client, pages: 0..<Self.perWaiter)
                try await wait { device.waitingCount == 1 }
            }
            try await Task.sleep(for: .milliseconds(50))
            #expect(export.closedCount == 0)
            device.arrive(0..<Self.perWaiter)
            try await wait { export.closedCount == 1 }
        }
    }
}

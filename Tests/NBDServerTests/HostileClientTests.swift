import BlockCore
import Testing

@testable import NBDServer

// What one client does or leaves undone must not reach another.
@Suite struct HostileClientTests {
    @Test(arguments: [true, false])
    func aClientThatNeverReadsStopsNobodyElse(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: answersNow)
        try await ServerFixture.run([MemoryExport("disk", memory)]) { fixture in
            var deaf: [TestClient] = []
            for _ in 0..<14 {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                // More in total than sockets and the connection's bounds can take in.
                for index in 0..<200 {
                    try client.sendRequest(
                        NBDRequest(
                            .read, cookie: UInt64(index), offset: 0, lengthBytes: 1 << 20))
                }
                deaf.append(client)
            }
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            for index in 0..<50 {
                let read = NBDRequest(
                    .read, cookie: UInt64(index), offset: 4096, lengthBytes: 128 << 10)
                #expect(try client.exchange(read).payload.count == 128 << 10)
                let flush = NBDRequest(.flush, cookie: 1000, offset: 0, lengthBytes: 0)
                #expect(try client.exchange(flush).error == 0)
            }
            // Those that begin to read after all miss nothing.
            var cookies: Set<UInt64> = []
            for _ in 0..<200 { cookies.insert(try deaf[0].reply().cookie) }
            #expect(cookies == Set(0..<200))
        }
    }

    @Test func whatAClientHasInFlightIsBounded() async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: false)
        var limits = NBDLimits()
        limits.requestsInFlightMax = 5
        limits.bytesInFlightMax = 3 << 20
        try await ServerFixture.run([MemoryExport("disk", memory)], limits: limits) { fixture in
            memory.hold()
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            for index in 0..<20 {
                try client.sendRequest(
                    NBDRequest(
                        .read, cookie: UInt64(index), offset: 0, lengthBytes: 1 << 20))
            }
            #expect(try await settled(memory) == 3)
            let small = try TestClient(connectingTo: fixture.socketPath)
            try small.open("disk")
            for index in 0..<20 {
                try small.sendRequest(
                    NBDRequest(
                        .read, cookie: UInt64(index), offset: 0, lengthBytes: 512))
            }
            #expect(try await settled(memory) == 8)
            memory.release()
            for _ in 0..<20 {
                #expect(try client.reply().error == 0)
                #expect(try small.reply().error == 0)
            }
        }
    }

    @Test(arguments: [true, false])
    func clientsThatVanishMidwayHarmNobodyElse(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: answersNow)
        let export = MemoryExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let steady = try TestClient(connectingTo: fixture.socketPath)
            try steady.open("disk")
            for size in [100, 5000, 64 << 10, 1 << 20] {
                for sent in [0, 1, size / 2, size - 1] {
                    let client = try TestClient(connectingTo: fixture.socketPath)
                    try client.open("disk")
                    let write = NBDRequest(
                        .write, cookie: 1, offset: 0, lengthBytes: UInt32(size))
                    try client.send(encoded(write) + [UInt8](repeating: 0xff, count: sent))
                }
            }
            for cut in [1, 27] {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                let read = NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 1 << 20)
                try client.send(Array((encoded(read) + encoded(read))[..<(28 + cut)]))
            }
            let read = NBDRequest(.read, cookie: 2, offset: 0, lengthBytes: 1 << 20)
            #expect(try steady.exchange(read).payload.allSatisfy { $0 == 0 })
            try await waitUntil { export.closedCount == export.openedCount - 1 }
        }
        // A write that did not arrive whole was not begun.
        #expect(memory.counts.writes + memory.counts.writesNow == 0)
    }

    @Test(arguments: [true, false])
    func whatWasSentBeforeTheEndIsAnswered(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: answersNow)
        try await ServerFixture.run([MemoryExport("disk", memory)]) { fixture in
            for hasDisconnect in [true, false] {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                for cookie in 0..<3 {
                    try client.sendRequest(
                        NBDRequest(
                            .read, cookie: UInt64(cookie), offset: 0, lengthBytes: 4096))
                }
                if hasDisconnect {
                    try client.sendRequest(
                        NBDRequest(.disconnect, cookie: 9, offset: 0, lengthBytes: 0))
                } else {
                    client.endSending()
                }
                for _ in 0..<3 { #expect(try client.reply().payload.count == 4096) }
                #expect(client.isEnded())
            }
        }
    }

    @Test func aRequestWithoutItsMagicNumberEndsTheConnection() async throws {
        let export = MemoryExport("disk", MemoryDevice(lengthBytes: 1 << 20))
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            try client.sendRequest(NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 1))
            try client.send([UInt8](repeating: 1, count: 28))
            #expect(try client.reply().payload == [0])
            #expect(client.isEnded())
            #expect(fixture.reports.count == 1)
        }
    }

    @Test func connectionsBeyondTheLimitAreClosed() async throws {
        var limits = NBDLimits()
        limits.connectionsMax = 2
        let export = MemoryExport("disk", MemoryDevice(lengthBytes: 4096))
        try await ServerFixture.run([export], limits: limits) { fixture in
            do {
                let first = try TestClient(connectingTo: fixture.socketPath)
                try first.open("disk")
                let second = try TestClient(connectingTo: fixture.socketPath)
                try second.open("disk")
                #expect(try TestClient(connectingTo: fixture.socketPath).isEnded())
            }
            try await waitUntil { export.closedCount == 2 }
            try await waitUntil {
                (try? TestClient(connectingTo: fixture.socketPath).open("disk")) != nil
            }
        }
    }

    // How many operations wait in the device, once that no longer grows.
    private func settled(_ memory: MemoryDevice) async throws -> Int {
        var last = -1
        while memory.heldCount != last || last == 0 {
            last = memory.heldCount
            try await Task.sleep(for: .milliseconds(150))
        }
        return last
    }
}

/// Waits until `condition` holds; a failure after ten seconds.
func waitUntil(
    _ condition: () -> Bool, sourceLocation: SourceLocation = #_sourceLocation
) async throws {
    let deadline = ContinuousClock.now + .seconds(10)
    while !condition() {
        try #require(ContinuousClock.now < deadline, sourceLocation: sourceLocation)
        try await Task.sleep(for: .milliseconds(5))
    }
}

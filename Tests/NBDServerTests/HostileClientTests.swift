import BlockCore
import Foundation
import Testing

@testable import NBDServer

// What one client does or leaves undone must not reach another.
@Suite struct HostileClientTests {
    @Test(arguments: [true, false])
    func aClientThatNeverReadsStopsNobodyElse(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
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
        try await ServerFixture.run([DeviceExport("disk", memory)], limits: limits) { fixture in
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
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let steady = try TestClient(connectingTo: fixture.socketPath)
            try steady.open("disk")
            for size in [100, 5000, 64 << 10, 1 << 20] {
                for sent in [0, 1, size / 2, size - 1] {
                    let client = try TestClient(connectingTo: fixture.socketPath)
                    try client.open("disk")
                    let write = NBDRequest(
                        .write, cookie: 1, offset: 0, lengthBytes: UInt64(size))
                    try client.send(encoded(write) + [UInt8](repeating: 0xff, count: sent))
                }
            }
            for form in [NBDMessageForm.simple, .structured] {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk", form: form)
                let write = NBDRequest(
                    .write, cookie: 1, offset: 0, lengthBytes: UInt64(UInt32.max))
                try client.send(encoded(write, form) + [UInt8](repeating: 0xff, count: 1 << 20))
            }
            for cut in [1, 27] {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                let read = NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 1 << 20)
                try client.send(Array((encoded(read) + encoded(read))[..<(28 + cut)]))
            }
            let read = NBDRequest(.read, cookie: 2, offset: 1 << 20, lengthBytes: 1 << 20)
            #expect(try steady.exchange(read).payload.allSatisfy { $0 == 0 })
            try await waitUntil { export.closedCount == export.openedCount - 1 }
        }
        // Of a write that did not arrive whole nothing is written but what did, and of a small one
        // or one that is not for the now face nothing at all.
        #expect(memory.counts.writes == 0)
        #expect(answersNow || memory.counts.writesNow == 0)
        let first = memory.bytes(0, 1 << 20)
        let written = first.prefix { $0 == 0xff }.count
        #expect(written < 1 << 20 && first[written...].allSatisfy { $0 == 0 })
        #expect(memory.bytes(1 << 20, 7 << 20).allSatisfy { $0 == 0 })
    }

    @Test func ofALargeWriteNothingIsBegunBeforeAPieceIsThere() async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20)
        let export = DeviceExport("disk", memory)
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            let write = NBDRequest(.write, cookie: 1, offset: 0, lengthBytes: 1 << 20)
            try client.send(
                encoded(write)
                    + [UInt8](repeating: 0xff, count: NBDLargeWrite.pieceBytesMin - 1))
        }
        #expect(memory.counts.writesNow == 0)
    }

    @Test(arguments: [true, false])
    func whatWasSentBeforeTheEndIsAnswered(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
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
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 1 << 20))
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

    @Test func clientsBeyondTheLimitAreTurnedAway() async throws {
        var limits = NBDLimits()
        limits.connectionsMax = 2
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 4096))
        try await ServerFixture.run([export], limits: limits) { fixture in
            do {
                let first = try TestClient(connectingTo: fixture.socketPath)
                try first.open("disk")
                let second = try TestClient(connectingTo: fixture.socketPath)
                try second.open("disk")
                let third = try TestClient(connectingTo: fixture.socketPath)
                try third.greet()
                try third.sendOption(7, infoPayload("disk"))
                let refused = try third.optionReply(to: 7)
                #expect(refused.type == 0x8000_0002)
                #expect(String(decoding: refused.payload, as: UTF8.self).contains("try again"))
                // Who is told so may still look around, and ask again.
                try third.sendOption(6, infoPayload("disk"))
                #expect(try third.optionReplies(to: 6).last?.type == 1)
                try third.sendOption(1, Array("disk".utf8))
                #expect(third.isEnded())
            }
            try await waitUntil { export.closedCount == 2 }
            try await waitUntil {
                (try? TestClient(connectingTo: fixture.socketPath).open("disk")) != nil
            }
        }
    }

    @Test func hundredsOfSilentClientsKeepNobodyOut() async throws {
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 1 << 20))
        try await ServerFixture.run([export]) { fixture in
            let steady = try TestClient(connectingTo: fixture.socketPath)
            try steady.open("disk")
            // Thousands of connections that say nothing, or half an option, and stay.
            let crowd = Process()
            crowd.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
            crowd.arguments = ["-c", Self.crowd, fixture.socketPath]
            let output = Pipe()
            crowd.standardOutput = output
            try crowd.run()
            defer { crowd.terminate() }
            var served = 0
            let flush = NBDRequest(.flush, cookie: 1, offset: 0, lengthBytes: 0)
            while crowd.isRunning, served < 100 {
                // In the thick of it a client may lose its place once, not for long.
                let isServed = (0..<20).contains { _ in
                    guard let client = try? TestClient(connectingTo: fixture.socketPath)
                    else { return false }
                    return (try? client.tryOpen("disk")) == true
                }
                #expect(isServed)
                served += 1
                #expect(try steady.exchange(flush).error == 0)
            }
            #expect(output.fileHandleForReading.availableData == Data("3000\n".utf8))
            #expect(fixture.reports.count < 50)
        }
    }

    private static let crowd = """
        import os, resource, socket, sys, time
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 4000), limit))
        crowd = []
        for index in range(3000):
            s = socket.socket(socket.AF_UNIX)
            s.connect(sys.argv[1])
            try:
                if index % 10 == 1:
                    s.send(b"\\0\\0\\0\\3IHAVE")
            except OSError:
                pass
            crowd.append(s)
        os.write(1, b"%d\\n" % len(crowd))
        time.sleep(60)
        """

    @Test func theOldestSilentClientLosesItsPlaceFirst() async throws {
        var limits = NBDLimits()
        limits.handshakesMax = 3
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 1 << 20))
        try await ServerFixture.run([export], limits: limits) { fixture in
            let speaking = try TestClient(connectingTo: fixture.socketPath)
            try speaking.greet()
            try speaking.sendOption(3)
            #expect(try speaking.optionReplies(to: 3).last?.type == 1)
            var silent: [TestClient] = []
            for _ in 0..<3 {
                silent.append(try TestClient(connectingTo: fixture.socketPath))
                _ = try silent[silent.count - 1].receive(18)
            }
            #expect(silent[0].isEnded())
            try speaking.sendOption(7, infoPayload("disk"))
            #expect(try speaking.optionReplies(to: 7).last?.type == 1)
            // A client that has chosen takes no place of those that choose.
            let late = try TestClient(connectingTo: fixture.socketPath)
            try late.open("disk")
            try silent[1].send([0, 0, 0, 3])
            try silent[1].sendOption(7, infoPayload("disk"))
            #expect(try silent[1].optionReplies(to: 7).last?.type == 1)
        }
    }

    @Test func aFloodOfOptionsEnds() async throws {
        var limits = NBDLimits()
        limits.optionsMax = 50
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 1 << 20))
        try await ServerFixture.run([export], limits: limits) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            for _ in 0..<50 {
                try client.sendOption(3)
                #expect(try client.optionReplies(to: 3).last?.type == 1)
            }
            try client.sendOption(3)
            #expect(client.isEnded())
            #expect(fixture.reports.count == 1)
        }
    }

    @Test func whatAllClientsHaveInFlightIsBoundedAndEachHasItsOwn() async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: false)
        var limits = NBDLimits()
        limits.bytesInFlightOwn = 1 << 20
        limits.bytesInFlightSharedMax = 4 << 20
        try await ServerFixture.run([DeviceExport("disk", memory)], limits: limits) { fixture in
            memory.hold()
            func flood(_ count: Int) throws -> TestClient {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.open("disk")
                for index in 0..<count {
                    try client.sendRequest(
                        NBDRequest(.read, cookie: UInt64(index), offset: 0, lengthBytes: 1 << 20))
                }
                return client
            }
            // The first takes all that is shared; each after it still has its own.
            let greedy = try flood(20)
            #expect(try await settled(memory) == 5)
            let others = try [flood(3), flood(3), flood(3)]
            #expect(try await settled(memory) == 8)
            memory.release()
            for _ in 0..<20 { #expect(try greedy.reply().error == 0) }
            for client in others {
                for _ in 0..<3 { #expect(try client.reply().error == 0) }
            }
            memory.hold()
            let again = try flood(20)
            #expect(try await settled(memory) == 5)
            memory.release()
            for _ in 0..<20 { #expect(try again.reply().error == 0) }
        }
    }

    @Test func reportsAreFewHoweverManyClientsMisbehave() async throws {
        let export = DeviceExport("disk", MemoryDevice(lengthBytes: 1 << 20))
        try await ServerFixture.run([export]) { fixture in
            for _ in 0..<200 {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.greet(flags: .max)
                #expect(client.isEnded())
            }
            #expect(fixture.reports.count == 20)
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

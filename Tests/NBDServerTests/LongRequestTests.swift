import BlockCore
import Testing

@testable import NBDServer

// Requests on ranges far beyond what one header could say before, done in pieces.
@Suite struct LongRequestTests {
    private let size: UInt64 = 1 << 45

    private func serve(
        _ device: ZeroDevice, contexts: [String] = [], drainSeconds: Int = 10,
        _ body: (ServerFixture, TestClient) async throws -> Void
    ) async throws {
        var limits = NBDLimits()
        limits.drainSeconds = drainSeconds
        try await ServerFixture.run([DeviceExport("disk", device)], limits: limits) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: .extended, contexts: contexts)
            try await body(fixture, client)
        }
    }

    @Test(arguments: [NBDCommand.writeZeroes, .trim])
    func zeroesAndDiscardsOfAnyLengthAreDoneInPieces(_ command: NBDCommand) async throws {
        let device = ZeroDevice(lengthBytes: size)
        try await serve(device) { _, client in
            let request = NBDRequest(
                command, cookie: 1, offset: 1000, lengthBytes: 10 << 30)
            let reply = try client.exchange(request)
            #expect(reply.error == 0)
        }
        let asked = command == .trim ? device.requests.discarded : device.requests.zeroed
        #expect(asked.first?.offset == 1000)
        #expect(asked.last?.end == 1000 + 10 << 30)
        for (one, next) in zip(asked, asked.dropFirst()) {
            #expect(one.end == next.offset && one.end % (64 << 20) == 0)
        }
        #expect(asked.allSatisfy { $0.lengthBytes <= 64 << 20 })
    }

    @Test func aCacheOfAnyLengthReadsInPieces() async throws {
        let device = ZeroDevice(lengthBytes: size)
        try await serve(device) { _, client in
            let request = NBDRequest(.cache, cookie: 1, offset: 5, lengthBytes: 100 << 20)
            let reply = try client.exchange(request)
            #expect(reply.error == 0)
        }
        #expect(device.requests.readBytes == 100 << 20)
    }

    @Test func aFailureTellsUpToWhereItWentWell() async throws {
        let device = ZeroDevice(lengthBytes: size)
        device.fail(at: 5 << 30)
        try await serve(device) { _, client in
            for command in [NBDCommand.writeZeroes, .trim, .cache] {
                let request = NBDRequest(
                    command, cookie: 1, offset: 4 << 30 + 1, lengthBytes: 3 << 30)
                let reply = try client.exchange(request)
                #expect(reply.error == 5 && reply.errorOffset == 5 << 30)
            }
            let first = NBDRequest(.trim, cookie: 1, offset: 5 << 30, lengthBytes: 1)
            #expect(try client.exchange(first).errorOffset == nil)
            let beyond = NBDRequest(.read, cookie: 1, offset: size - 4, lengthBytes: 8)
            let reply = try client.exchange(beyond)
            #expect(reply.error == 22 && reply.errorOffset == size)
            let outside = NBDRequest(.read, cookie: 1, offset: size, lengthBytes: 8)
            #expect(try client.exchange(outside).errorOffset == nil)
        }
    }

    @Test func statusOfAnyLengthIsOneRunWhereThereIsOne() async throws {
        let device = ZeroDevice(lengthBytes: size)
        try await serve(device, contexts: ["base:allocation"]) { _, client in
            for flags in [NBDCommandFlags.reqOne, []] {
                let request = NBDRequest(
                    .blockStatus, flags: flags, cookie: 1, offset: 512, lengthBytes: 1 << 40)
                let reply = try client.exchange(request)
                #expect(
                    reply.payload == bigEndian(1 as UInt32) + bigEndian(1 as UInt32)
                        + bigEndian(1 << 40 as UInt64) + bigEndian(3 as UInt64))
            }
        }
        #expect(device.requests.mapped.allSatisfy { $0.lengthBytes <= 16 << 30 })
    }

    @Test func statusTellsWhatIsKnownWhenTheTimeIsOver() async throws {
        let device = ZeroDevice(lengthBytes: size, pieceMicroseconds: 100_000)
        try await serve(device, contexts: ["base:allocation"]) { _, client in
            let request = NBDRequest(.blockStatus, cookie: 1, offset: 0, lengthBytes: size)
            let reply = try client.exchange(request)
            let length = number(reply.payload, 8, UInt64.self)
            #expect(reply.error == 0 && length > 0 && length < size)
        }
    }

    @Test func manyRunsAreCutAtTheLimit() async throws {
        let device = ZeroDevice(lengthBytes: size) { offset in
            let start = offset.alignedDown(to: 4096)
            return Extent(
                range: ByteRange(offset: start, lengthBytes: 4096),
                isZero: start % 8192 == 0, isHole: false)
        }
        let names = ["base:allocation", "qemu:allocation-depth"]
        try await serve(device, contexts: names) { _, client in
            let request = NBDRequest(.blockStatus, cookie: 1, offset: 0, lengthBytes: size)
            let reply = try client.exchange(request)
            #expect(number(reply.payload, 4, UInt32.self) == 8192)
            #expect(number(reply.payload, 8, UInt64.self) == 4096)
            // All of one depth: as far as the device was asked in the time.
            let depth = try client.reply()
            #expect(number(depth.payload, 4, UInt32.self) == 1)
            #expect(number(depth.payload, 16, UInt64.self) == 1)
        }
    }

    @Test func depthsCountFromTheTopAndHolesOfTheBaseAreZero() async throws {
        // Two MiB of each: the top, a zero cluster in it, the next node, the base, nothing.
        let device = ZeroDevice(lengthBytes: 10 << 20, chainNodeCount: 3) { offset in
            let part = Int(offset / (2 << 20))
            let range = ByteRange(offset: UInt64(part) * 2 << 20, lengthBytes: 2 << 20)
            return Extent(
                range: range, isZero: [1, 4].contains(part), isHole: [1, 4].contains(part),
                depth: [0, 0, 1, 2, 2][part])
        }
        try await serve(device, contexts: ["qemu:allocation-depth"]) { _, client in
            let request = NBDRequest(.blockStatus, cookie: 1, offset: 0, lengthBytes: 10 << 20)
            let reply = try client.exchange(request)
            #expect(
                reply.payload == bigEndian(1 as UInt32) + bigEndian(4 as UInt32)
                    + [4, 1, 2, 2, 2, 3, 2, 0].enumerated().flatMap {
                        bigEndian(UInt64($1) << ($0 % 2 == 0 ? 20 : 0))
                    })
        }
    }

    @Test func longRequestsLeaveThreadsForOthersAndEndWithTheirExport() async throws {
        let device = ZeroDevice(lengthBytes: 1 << 60, pieceMicroseconds: 1000)
        try await serve(device, contexts: ["base:allocation"], drainSeconds: 1) { fixture, client in
            // More than the pool has threads; each would take days.
            for cookie in 0..<40 {
                try client.sendRequest(
                    NBDRequest(
                        cookie % 2 == 0 ? .trim : .writeZeroes, cookie: UInt64(cookie), offset: 0,
                        lengthBytes: 1 << 60))
            }
            let other = try TestClient(connectingTo: fixture.socketPath)
            try other.open("disk", form: .extended)
            let start = ContinuousClock.now
            for index in 0..<20 {
                let read = NBDRequest(.read, cookie: 1, offset: UInt64(index), lengthBytes: 4096)
                #expect(try other.exchange(read).error == 0)
            }
            #expect(ContinuousClock.now - start < .seconds(5))
            #expect(await fixture.exports.removeExport("disk", drainSeconds: 1))
            #expect(ContinuousClock.now - start < .seconds(9))
        }
    }

    @Test func whatAClientHasAskedForEndsWhenItIsGone() async throws {
        let device = ZeroDevice(lengthBytes: 1 << 60, pieceMicroseconds: 1000)
        var limits = NBDLimits()
        limits.drainSeconds = 1
        try await ServerFixture.run([DeviceExport("disk", device)], limits: limits) { fixture in
            // More than may be in flight, so that nobody is left to see the end of the stream.
            var client: TestClient? = try TestClient(connectingTo: fixture.socketPath)
            try client?.open("disk", form: .extended)
            let requests = (0..<600).map { cookie in
                NBDRequest(.trim, cookie: UInt64(cookie), offset: 0, lengthBytes: 1 << 60)
            }
            try client?.send(requests.flatMap { encoded($0, .extended) })
            client = nil
            let end = ContinuousClock.now + .seconds(10)
            while fixture.exports.connectionCount(of: "disk") != 0, ContinuousClock.now < end {
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect(fixture.exports.connectionCount(of: "disk") == 0)
        }
    }

    @Test func fastZeroesAreFastOrRefused() async throws {
        for zeroesFast in [true, false] {
            let device = ZeroDevice(lengthBytes: size, zeroesFast: zeroesFast)
            try await serve(device) { _, client in
                func error(_ flags: NBDCommandFlags) throws -> UInt32 {
                    try client.exchange(
                        NBDRequest(
                            .writeZeroes, flags: flags, cookie: 1, offset: 0, lengthBytes: 1 << 20)
                    ).error
                }
                let answers = try [error(.fastZero), error([.fastZero, .noHole])]
                #expect(answers == [zeroesFast ? 0 : 95, 95])
                #expect(device.requests.zeroed.count == (zeroesFast ? 1 : 0))
                let slow = try error(.noHole)
                #expect(slow == 0)
            }
        }
    }

    @Test func aNewClientSeesTheNewLength() async throws {
        let device = ZeroDevice(lengthBytes: 1 << 20)
        try await serve(device) { fixture, old in
            device.resize(to: 3 << 20)
            func sizeTold(_ client: TestClient) throws -> UInt64 {
                try client.greet()
                try client.sendOption(7, infoPayload("disk"))
                return number(try client.optionReplies(to: 7)[0].payload, 2, UInt64.self)
            }
            let new = try TestClient(connectingTo: fixture.socketPath)
            #expect(try sizeTold(new) == 3 << 20)
            let read = NBDRequest(.read, cookie: 1, offset: 2 << 20, lengthBytes: 1)
            #expect(try new.exchange(read).error == 0)
            #expect(try old.exchange(read).error == 22)
            // What a shrink took away is an error, not zeroes.
            device.resize(to: 1 << 19)
            let gone = NBDRequest(.read, cookie: 2, offset: 1 << 19, lengthBytes: 1)
            #expect(try old.exchange(gone).error == 22)
            #expect(try sizeTold(TestClient(connectingTo: fixture.socketPath)) == 1 << 19)
        }
    }
}

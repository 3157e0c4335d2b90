import BlockCore
import Testing

@testable import NBDServer

@Suite struct HandshakeTests {
    private let export = DeviceExport(
        "disk", MemoryDevice(lengthBytes: 12345), description: "a test disk",
        bitmaps: ["b0": [ByteRange(offset: 0, lengthBytes: 4096)]])

    @Test func goTellsWhatWasAskedFor() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(7, infoPayload("disk", [3, 1, 2, 77]))
            let replies = try client.optionReplies(to: 7)
            #expect(replies.map(\.type) == [3, 3, 3, 3, 1])
            // Flush, FUA, trim, zeroes, multi-conn, cache and fast zeroes; no DF without
            // structured replies.
            let flags: UInt16 = 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048
            #expect(replies[0].payload == [0, 0] + bigEndian(UInt64(12345)) + bigEndian(flags))
            #expect(
                replies[1].payload == [0, 3] + bigEndian(UInt32(1)) + bigEndian(UInt32(4096))
                    + bigEndian(UInt32(32 << 20)))
            #expect(replies[2].payload == [0, 1] + "disk".utf8)
            #expect(replies[3].payload == [0, 2] + "a test disk".utf8)
            let read = NBDRequest(.read, cookie: 9, offset: 12344, lengthBytes: 1)
            #expect(try client.exchange(read) == TestClient.Reply(cookie: 9, payload: [0]))
        }
    }

    @Test func exportNameGoesStraightToTransmission() async throws {
        try await ServerFixture.run([export]) { fixture in
            for (flags, padding) in [(UInt32(3), 0), (1, 124), (0, 124)] {
                let client = try TestClient(connectingTo: fixture.socketPath)
                try client.greet(flags: flags)
                try client.sendOption(1, Array("disk".utf8))
                let answer = try client.receive(10 + padding)
                #expect(number(answer, 0, UInt64.self) == 12345)
                #expect(number(answer, 8, UInt16.self) & 1 == 1)
                #expect(answer[10...].allSatisfy { $0 == 0 })
                let flush = NBDRequest(.flush, cookie: 2, offset: 0, lengthBytes: 0)
                #expect(try client.exchange(flush) == TestClient.Reply(cookie: 2))
            }
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(1, Array("nothing".utf8))
            #expect(client.isEnded())
        }
    }

    @Test func listNamesEveryExport() async throws {
        let other = DeviceExport("another", MemoryDevice(lengthBytes: 1))
        try await ServerFixture.run([export, other]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(3)
            let replies = try client.optionReplies(to: 3)
            #expect(replies.map(\.type) == [2, 2, 1])
            #expect(replies[0].payload == counted("another"))
            #expect(replies[1].payload == counted("disk") + "a test disk".utf8)
            try client.sendOption(3, [0])
            #expect(try client.optionReply(to: 3).type == 0x8000_0003)
            try client.sendOption(2)
            #expect(try client.optionReply(to: 2).type == 1)
            #expect(client.isEnded())
        }
    }

    @Test func unknownOptionsLeaveTheStreamInStep() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            for (option, length) in [(UInt32(12), 0), (4, 0), (12345, 65536), (.max, 1)] {
                try client.sendOption(option, pattern(length))
                #expect(try client.optionReply(to: option).type == 0x8000_0001)
            }
            // TLS is not offered on this kind of socket.
            try client.sendOption(5)
            #expect(try client.optionReply(to: 5).type == 0x8000_0001)
            try client.sendOption(7, infoPayload("disk"))
            #expect(try client.optionReplies(to: 7).map(\.type) == [3, 1])
        }
    }

    @Test func oversizeOptionsAreSkippedOrEndTheConnection() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(7, pattern(300_000))
            #expect(try client.optionReply(to: 7).type == 0x8000_0009)
            try client.sendOption(3)
            #expect(try client.optionReplies(to: 3).map(\.type) == [2, 1])
            try client.send(
                bigEndian(NBDMagic.option) + bigEndian(UInt32(7)) + bigEndian(UInt32.max))
            #expect(client.isEnded())
            #expect(fixture.reports.count == 1)
        }
    }

    @Test func malformedOptionsAreInvalid() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            for option in [UInt32(6), 7] {
                try client.sendOption(option, [0, 0, 0])
                #expect(try client.optionReply(to: option).type == 0x8000_0003)
                try client.sendOption(option, infoPayload("nothing"))
                #expect(try client.optionReply(to: option).type == 0x8000_0006)
            }
            for option in [UInt32(9), 10] {
                try client.sendOption(option, contextPayload("disk", []))
                #expect(try client.optionReply(to: option).type == 0x8000_0003)
            }
            try client.sendOption(8)
            #expect(try client.optionReply(to: 8).type == 1)
            try client.sendOption(8)
            #expect(try client.optionReply(to: 8).type == 0x8000_0003)
            for option in [UInt32(9), 10] {
                try client.sendOption(option, contextPayload("disk", ["x"]).dropLast())
                #expect(try client.optionReply(to: option).type == 0x8000_0003)
                try client.sendOption(option, contextPayload("nothing", []))
                #expect(try client.optionReply(to: option).type == 0x8000_0006)
            }
        }
    }

    @Test func contextsAreListedAndSet() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(8)
            #expect(try client.optionReply(to: 8).type == 1)
            try client.sendOption(9, contextPayload("disk", ["qemu:"]))
            let listed = try client.optionReplies(to: 9)
            #expect(listed.map(\.type) == [4, 4, 1])
            #expect(listed[0].payload == [0, 0, 0, 0] + "qemu:allocation-depth".utf8)
            #expect(listed[1].payload == [0, 0, 0, 0] + "qemu:dirty-bitmap:b0".utf8)
            try client.sendOption(10, contextPayload("disk", ["base:allocation", "base:other"]))
            let set = try client.optionReplies(to: 10)
            #expect(set.map(\.type) == [4, 1])
            #expect(set[0].payload == [0, 0, 0, 1] + "base:allocation".utf8)
        }
    }

    @Test func contextsCountOnlyForTheirExport() async throws {
        let other = DeviceExport("other", MemoryDevice(lengthBytes: 4096))
        try await ServerFixture.run([export, other]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(8)
            #expect(try client.optionReply(to: 8).type == 1)
            try client.sendOption(10, contextPayload("disk", ["base:allocation"]))
            #expect(try client.optionReplies(to: 10).count == 2)
            try client.sendOption(7, infoPayload("other"))
            #expect(try client.optionReplies(to: 7).last?.type == 1)
            let status = NBDRequest(.blockStatus, cookie: 3, offset: 0, lengthBytes: 4096)
            #expect(try client.exchange(status).error == 22)
        }
    }

    @Test func theEmptyNameIsTheOnlyExport() async throws {
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("")
            try fixture.exports.addExport(DeviceExport("x", MemoryDevice(lengthBytes: 1)))
            let late = try TestClient(connectingTo: fixture.socketPath)
            try late.greet()
            try late.sendOption(7, infoPayload(""))
            #expect(try late.optionReply(to: 7).type == 0x8000_0006)
        }
    }

    @Test func badBytesEndTheConnectionAndAreReported() async throws {
        try await ServerFixture.run([export]) { fixture in
            let flags = try TestClient(connectingTo: fixture.socketPath)
            try flags.greet(flags: 0x8000_0003)
            #expect(flags.isEnded())
            let magic = try TestClient(connectingTo: fixture.socketPath)
            try magic.greet()
            try magic.send([UInt8](repeating: 0x47, count: 16))
            #expect(magic.isEnded())
            #expect(fixture.reports.count == 2)
        }
    }

    @Test func aClientThatSaysNothingIsEndedAtTheDeadline() async throws {
        var limits = NBDLimits()
        limits.handshakeSeconds = 1
        try await ServerFixture.run([export], limits: limits) { fixture in
            let silent = try TestClient(connectingTo: fixture.socketPath)
            let half = try TestClient(connectingTo: fixture.socketPath)
            try half.greet()
            try half.send(Array("IHAVE".utf8))
            _ = try silent.receive(18)
            #expect(silent.isEnded())
            #expect(half.isEnded())
            #expect(fixture.reports.count == 2)
        }
    }
}

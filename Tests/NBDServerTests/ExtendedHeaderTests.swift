import BlockCore
import Testing

@testable import NBDServer

// Debian's clients do not know extended headers, so these tests speak them byte by byte.
@Suite struct ExtendedHeaderTests {
    private let request = NBDRequest(
        .read, cookie: 7, offset: 0x1234_5678_9abc, lengthBytes: 1024)

    private func chunk(_ type: UInt16, _ length: UInt64, flags: UInt16 = 1) -> [UInt8] {
        bigEndian(0x6e8a_278c as UInt32) + bigEndian(flags) + bigEndian(type)
            + bigEndian(7 as UInt64) + bigEndian(0x1234_5678_9abc as UInt64) + bigEndian(length)
    }

    private func filled(_ count: Int, _ fill: (UnsafeMutableRawPointer) -> Void) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xff, count: count)
        bytes.withUnsafeMutableBytes { fill($0.baseAddress!) }
        return bytes
    }

    @Test func repliesHaveTheirForm() {
        let codec = NBDReplyCodec(.extended)
        #expect(filled(codec.successBytes) { codec.putSuccess(request, at: $0) } == chunk(0, 0))
        #expect(
            filled(codec.readHeadBytes) { codec.putReadHead(request, at: $0) }
                == chunk(1, 1032) + bigEndian(request.offset))
        #expect(
            codec.failure(NBDFailure(.overflow, "much"), request)
                == chunk(0x8001, 10) + bigEndian(75 as UInt32) + [0, 4] + "much".utf8)
        #expect(
            codec.failure(NBDFailure(.inputOutput, "bad", at: request.offset + 512), request)
                == chunk(0x8002, 17) + bigEndian(5 as UInt32) + [0, 3] + "bad".utf8
                + bigEndian(request.offset + 512))
        let long = NBDStatusRun(lengthBytes: 1 << 40, flags: 3)
        let short = NBDStatusRun(lengthBytes: 5, flags: 0)
        #expect(
            codec.blockStatus([(1, [long, short]), (9, [long])], request)
                == chunk(6, 40, flags: 0) + bigEndian(1 as UInt32) + bigEndian(2 as UInt32)
                + bigEndian(1 << 40 as UInt64) + bigEndian(3 as UInt64) + bigEndian(5 as UInt64)
                + bigEndian(0 as UInt64)
                + chunk(6, 24) + bigEndian(9 as UInt32) + bigEndian(1 as UInt32)
                + bigEndian(1 << 40 as UInt64) + bigEndian(3 as UInt64))
    }

    @Test func placesOutsideTheRequestAreNotTold() {
        let codec = NBDReplyCodec(.structured)
        for offset in [request.offset - 1, request.offset + 1024, 0, .max] {
            let failure = codec.failure(NBDFailure(.inputOutput, "x", at: offset), request)
            #expect(failure == codec.failure(NBDFailure(.inputOutput, "x"), request))
        }
    }

    @Test func aRequestThatCannotBeFollowedIsNone() {
        func decoded(_ flags: UInt16, _ type: UInt16, _ length: UInt64) -> NBDRequest? {
            let bytes =
                bigEndian(0x21e4_1c71 as UInt32) + bigEndian(flags) + bigEndian(type)
                + bigEndian(1 as UInt64) + bigEndian(0 as UInt64) + bigEndian(length)
            return bytes.withUnsafeBytes { NBDRequest($0.baseAddress!, .extended) }
        }
        // A write without the flag: nobody can tell whether its data follows.
        #expect(decoded(0, 1, 512) == nil)
        #expect(decoded(32, 1, 512)?.hasPayload == true)
        #expect(decoded(32, 1, 32 << 20)?.lengthBytes == 32 << 20)
        #expect(decoded(32, 1, 32 << 20 + 1) == nil)
        #expect(decoded(32, 4, .max) == nil)
        #expect(decoded(0, 4, .max)?.lengthBytes == .max)
        #expect(decoded(32, 9, 100)?.hasPayload == true)
    }

    @Test func statusPayloadsAreParsed() {
        let whole = bigEndian(1 << 33 as UInt64) + bigEndian(2 as UInt32) + bigEndian(1 as UInt32)
        let payload = whole.withUnsafeBytes { NBDStatusPayload($0) }
        #expect(payload?.lengthBytes == 1 << 33)
        #expect(payload?.contextIDs == [2, 1])
        for count in 0..<whole.count where count != 12 {
            #expect(Array(whole[..<count]).withUnsafeBytes { NBDStatusPayload($0) } == nil)
        }
        let twice = whole + bigEndian(2 as UInt32)
        #expect(twice.withUnsafeBytes { NBDStatusPayload($0) } == nil)
    }

    @Test func theyAreNegotiatedOnceAndReplaceStructuredReplies() async throws {
        let export = DeviceExport(
            "disk", MemoryDevice(lengthBytes: 1 << 20), bitmaps: ["b": []])
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.greet()
            try client.sendOption(11, [0])
            #expect(try client.optionReply(to: 11).type == 0x8000_0003)
            for (option, type) in [
                (UInt32(8), UInt32(1)), (11, 1), (11, 0x8000_0003), (8, 0x8000_000a),
            ] {
                try client.sendOption(option)
                #expect(try client.optionReply(to: option).type == type)
            }
            // Without contexts there is nothing to choose among by a payload.
            for (contexts, bit) in [([], UInt16(0)), (["base:allocation"], 1 << 12)] {
                try client.sendOption(10, contextPayload("disk", contexts))
                _ = try client.optionReplies(to: 10)
                try client.sendOption(6, infoPayload("disk"))
                let info = try client.optionReplies(to: 6)
                #expect(number(info[0].payload, 10, UInt16.self) & 1 << 12 == bit)
                #expect(number(info[0].payload, 10, UInt16.self) & 1 << 7 != 0)
            }
            try client.sendOption(1, Array("disk".utf8))
            #expect(client.isEnded())
        }
    }

    @Test func aPayloadForACommandThatHasNoneIsTakenOff() async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: .extended, contexts: ["base:allocation"])
            for type in [UInt16(0), 3, 4, 5, 6, 7, 8, 4711] {
                var request = NBDRequest(.read, cookie: 5, offset: 0, lengthBytes: 300_000)
                request.type = type
                request.hasPayload = true
                let reply = try client.exchange(request, pattern(300_000))
                #expect(reply.error == 22 && reply.cookie == 5 && reply.requestOffset == 0)
            }
            let read = NBDRequest(.read, cookie: 6, offset: 77, lengthBytes: 8)
            #expect(try client.exchange(read).payload == [UInt8](repeating: 0, count: 8))
            let bad = NBDRequest(.write, cookie: 5, offset: 0, lengthBytes: 64 << 20)
            try client.sendRequest(bad)
            #expect(client.isEnded())
        }
        #expect(memory.counts.writesNow == 0)
    }

    @Test func aPayloadChoosesAmongTheContexts() async throws {
        let dirty = ByteRange(offset: 65536, lengthBytes: 65536)
        let export = DeviceExport(
            "disk", MemoryDevice(lengthBytes: 1 << 20), bitmaps: ["b": [dirty]])
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open(
                "disk", form: .extended,
                contexts: ["base:allocation", "qemu:dirty-bitmap:b"])
            func status(_ length: UInt64, _ ids: [UInt32]) throws -> TestClient.Reply {
                let payload = bigEndian(length) + ids.flatMap { bigEndian($0) }
                var request = NBDRequest(
                    .blockStatus, cookie: 3, offset: 4096, lengthBytes: UInt64(payload.count))
                request.hasPayload = true
                return try client.exchange(request, payload)
            }
            let reply = try status(200_000, [2])
            #expect(reply.type == 6 && reply.isDone && reply.requestOffset == 4096)
            #expect(
                reply.payload == bigEndian(2 as UInt32) + bigEndian(3 as UInt32)
                    + [61440, 0, 65536, 1, 73024, 0].flatMap { bigEndian(UInt64($0)) })
            #expect(try status(4096, [1, 2]).isDone == false)
            #expect(try client.reply().isDone)
            for ids in [[], [0], [3], [1, 1], [1, 2, 1], [.max]] as [[UInt32]] {
                #expect(try status(4096, ids).error == 22)
            }
            #expect(try status(0, [1]).error == 22)
            #expect(try status(1 << 20, [1]).error == 22)
            #expect(try status(.max, [1]).error == 22)
        }
    }
}

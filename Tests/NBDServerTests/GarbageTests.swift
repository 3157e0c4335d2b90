import BlockCore
import Foundation
import Testing

@testable import NBDServer

// Bytes that no client would send: whatever they are, they are answered or end the connection.
@Suite struct GarbageTests {
    private struct Chance: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9e37_79b9_7f4a_7c15
            var mixed = state
            mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
            mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
            return mixed ^ mixed >> 31
        }
    }

    private let seed: UInt64 = {
        let given = ProcessInfo.processInfo.environment["TIDEMARK_SEED"]
        let seed = given.flatMap(UInt64.init) ?? UInt64.random(in: 0..<1 << 31)
        print("GarbageTests: TIDEMARK_SEED=\(seed)")
        return seed
    }()

    @Test func damagedOptionsAreAlwaysAnswered() throws {
        var chance = Chance(state: seed)
        let table = NBDExportTable()
        try table.addExport(DeviceExport("disk", MemoryDevice(lengthBytes: 4096)))
        var answers = 0
        for _ in 0..<3000 {
            var handshake = NBDHandshake(table)
            var reply: [UInt8] = []
            _ = consume(bigEndian(UInt32(3)), by: &handshake, &reply)
            _ = consume(header(8, 0), by: &handshake, &reply)
            _ = consume([], by: &handshake, &reply)
            let option = UInt32.random(in: 1...12, using: &chance)
            let payload = damaged(
                option > 8 ? contextPayload("disk", ["base:", "x"]) : infoPayload("disk", [1, 3]),
                &chance)
            reply = []
            _ = consume(header(option, payload.count), by: &handshake, &reply)
            let outcome = consume(payload, by: &handshake, &reply)
            if case .close = outcome { continue }
            try #require(!reply.isEmpty, "option \(option), seed \(seed)")
            answers += 1
        }
        #expect(answers > 1000)
    }

    @Test(arguments: [NBDMessageForm.structured, .extended])
    func requestsOfRandomNumbersAreAnsweredOrRefused(_ form: NBDMessageForm) async throws {
        var chance = Chance(state: seed)
        let memory = MemoryDevice(lengthBytes: 1 << 20)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: form, contexts: ["base:allocation"])
            for cookie in 0..<UInt64(2000) {
                var request = NBDRequest(
                    .read, cookie: cookie, offset: odd(&chance),
                    lengthBytes: odd(&chance))
                request.type = UInt16.random(in: 0...9, using: &chance)
                request.flags = NBDCommandFlags(rawValue: UInt16.random(in: 0...31, using: &chance))
                if request.type == NBDCommand.disconnect.rawValue { continue }
                // In the extended form any command can come with a payload.
                request.hasPayload =
                    request.type == NBDCommand.write.rawValue
                    || (form == .extended && Bool.random(using: &chance))
                if request.hasPayload { request.lengthBytes %= 100_000 }
                if form != .extended { request.lengthBytes &= UInt64(UInt32.max) }
                let payload = [UInt8](
                    repeating: 1, count: request.hasPayload ? Int(request.lengthBytes) : 0)
                let reply = try client.exchange(request, payload)
                try #require(reply.cookie == cookie && reply.isDone, "\(request), seed \(seed)")
            }
        }
    }

    private func header(_ option: UInt32, _ count: Int) -> [UInt8] {
        bigEndian(NBDMagic.option) + bigEndian(option) + bigEndian(UInt32(count))
    }

    private func consume(
        _ bytes: [UInt8], by handshake: inout NBDHandshake, _ reply: inout [UInt8]
    ) -> NBDHandshake.Outcome {
        #expect(handshake.neededBytes == bytes.count)
        return bytes.withUnsafeBytes { handshake.consume($0, reply: &reply) }
    }

    // `bytes` cut short, prolonged, or with some of them changed.
    private func damaged(_ bytes: [UInt8], _ chance: inout Chance) -> [UInt8] {
        var bytes = bytes
        if Bool.random(using: &chance) {
            bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &chance)))
        } else {
            bytes += (0..<Int.random(in: 0...9, using: &chance)).map { UInt8($0) }
        }
        for _ in 0..<Int.random(in: 0...3, using: &chance) where !bytes.isEmpty {
            let place = Int.random(in: 0..<bytes.count, using: &chance)
            bytes[place] = UInt8.random(in: 0...255, using: &chance)
        }
        return bytes
    }

    // Numbers near the edges: the disk's, the protocol's and the integers'.
    private func odd(_ chance: inout Chance) -> UInt64 {
        let edges: [UInt64] = [
            0, 4096, 64 << 10, 1 << 20, 32 << 20, 1 << 31, 1 << 32, 1 << 63, .max,
        ]
        let edge = edges.randomElement(using: &chance)!
        return edge &+ UInt64.random(in: 0...4, using: &chance) &- 2
    }
}

import BlockCore
import Testing

@testable import NBDServer

/// Both faces of a device, in each form of messages.
struct Way: CustomTestStringConvertible {
    var answersNow: Bool
    var form: NBDMessageForm
    var testDescription: String {
        "\(answersNow ? "now" : "later"), \(form)"
    }

    static let all = [true, false].flatMap { answersNow in
        [.simple, .structured, .extended].map { Way(answersNow: answersNow, form: $0) }
    }
}

@Suite struct TransmissionTests {
    @Test(arguments: Way.all)
    func dataOfAnySizeComesBack(_ way: Way) async throws {
        let memory = MemoryDevice(lengthBytes: 40 << 20, answersNow: way.answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: way.form)
            let sizes = [
                1, 511, 4096, 64 << 10, 64 << 10 + 1, 200_000, 256 << 10, 1 << 20, 5_000_001,
            ]
            for (index, size) in sizes.enumerated() {
                let cookie = UInt64(index)
                let data = pattern(size, UInt8(index))
                let write = NBDRequest(
                    .write, cookie: cookie, offset: 777, lengthBytes: UInt64(size))
                #expect(try client.exchange(write, data).error == 0)
                #expect(memory.bytes(777, size) == data)
                let read = NBDRequest(
                    .read, cookie: cookie + 100, offset: 777, lengthBytes: UInt64(size))
                let reply = try client.exchange(read)
                #expect(reply.cookie == cookie + 100 && reply.error == 0)
                #expect(reply.payload == data)
            }
        }
        let counts = memory.counts
        #expect(counts.reads == (way.answersNow ? 0 : 9))
        #expect(counts.writes == (way.answersNow ? 0 : 9))
        #expect(way.answersNow ? counts.writesNow >= 9 : counts.writesNow == 0)
    }

    @Test func aWriteThatIsRefusedMidwayIsFinishedByOthers() async throws {
        let memory = MemoryDevice(lengthBytes: 4 << 20)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            let data = pattern(1 << 20)
            let write = NBDRequest(.write, cookie: 1, offset: 777, lengthBytes: 1 << 20)
            try client.send(encoded(write) + data[..<(300 << 10)])
            for _ in 0..<10_000 where memory.counts.writesNow == 0 {
                try await Task.sleep(for: .milliseconds(1))
            }
            memory.refuseNow()
            try client.send(Array(data[(300 << 10)...]))
            #expect(try client.reply().error == 0)
            #expect(memory.bytes(777, 1 << 20) == data)
        }
        #expect(memory.counts.writes == 1 && memory.counts.writesNow >= 1)
        #expect(memory.counts.gradualWrites == 0)
    }

    @Test func aClientThatStopsInTheMiddleOfAWriteHoldsNothingUp() async throws {
        let memory = MemoryDevice(lengthBytes: 4 << 20)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            let data = pattern(1 << 20)
            let write = NBDRequest(.write, cookie: 1, offset: 777, lengthBytes: 1 << 20)
            try client.send(encoded(write) + data[..<(300 << 10)])
            for _ in 0..<10_000 where memory.counts.writesNow == 0 {
                try await Task.sleep(for: .milliseconds(1))
            }
            for _ in 0..<10_000 where memory.counts.gradualWrites > 0 {
                try await Task.sleep(for: .milliseconds(1))
            }
            #expect(memory.counts.gradualWrites == 0)
            // It may go on all the same.
            try client.send(Array(data[(300 << 10)...]))
            #expect(try client.reply().error == 0)
            #expect(memory.bytes(777, 1 << 20) == data)
        }
        #expect(memory.counts.writes == 1)
    }

    @Test func aWriteThatFailsMidwayFailsOnceAndHarmsNothingThatFollows() async throws {
        let memory = MemoryDevice(lengthBytes: 4 << 20)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            let data = pattern(1 << 20)
            let write = NBDRequest(.write, cookie: 1, offset: 777, lengthBytes: 1 << 20)
            try client.send(encoded(write) + data[..<(300 << 10)])
            for _ in 0..<10_000 where memory.counts.writesNow == 0 {
                try await Task.sleep(for: .milliseconds(1))
            }
            memory.fail(with: .noSpace)
            try client.send(Array(data[(300 << 10)...]))
            #expect(try client.reply().error == 28)
            #expect(memory.counts.gradualWrites == 0)
            memory.fail(with: nil)
            let read = NBDRequest(.read, cookie: 2, offset: 777, lengthBytes: 1024)
            #expect(try client.exchange(read).payload == Array(data[..<1024]))
        }
    }

    @Test func theLargestRequestIsServed() async throws {
        let size = 32 << 20
        let memory = MemoryDevice(lengthBytes: size)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            let write = NBDRequest(.write, cookie: 1, offset: 0, lengthBytes: UInt64(size))
            #expect(try client.exchange(write, [UInt8](repeating: 5, count: size)).error == 0)
            let read = NBDRequest(.read, cookie: 2, offset: 0, lengthBytes: UInt64(size))
            let reply = try client.exchange(read)
            #expect(reply.payload.count == size && reply.payload.allSatisfy { $0 == 5 })
        }
    }

    @Test(arguments: Way.all)
    func aReadBeyondTheMaximumIsOneTooLarge(_ way: Way) async throws {
        let memory = MemoryDevice(lengthBytes: 33 << 20, answersNow: way.answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: way.form)
            let flags: [NBDCommandFlags] = way.form.hasChunks ? [[], .df] : [[]]
            for flags in flags {
                let read = NBDRequest(
                    .read, flags: flags, cookie: 1, offset: 0, lengthBytes: 32 << 20 + 1)
                #expect(try client.exchange(read).error == (way.form.hasChunks ? 75 : 22))
            }
        }
    }

    @Test(arguments: Way.all)
    func manyRequestsInOnePieceAreAllAnswered(_ way: Way) async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: way.answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: way.form)
            var bytes: [UInt8] = []
            for index in 0..<100 {
                bytes += encoded(
                    NBDRequest(
                        .write, cookie: UInt64(index), offset: UInt64(index * 5000),
                        lengthBytes: 5000), way.form)
                bytes += pattern(5000, UInt8(index))
            }
            try client.send(bytes)
            var cookies: Set<UInt64> = []
            for _ in 0..<100 {
                let reply = try client.reply()
                #expect(reply.error == 0)
                cookies.insert(reply.cookie)
            }
            #expect(cookies == Set(0..<100))
            for index in 0..<100 {
                #expect(memory.bytes(index * 5000, 5000) == pattern(5000, UInt8(index)))
            }
        }
    }

    @Test(arguments: Way.all)
    func whatIsRefusedHarmsNothingThatFollows(_ way: Way) async throws {
        let memory = MemoryDevice(lengthBytes: 8192, answersNow: way.answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", form: way.form)
            func error(
                _ command: NBDCommand, _ offset: UInt64, _ length: UInt64, sends: Int = 0
            ) throws -> UInt32 {
                let request = NBDRequest(command, cookie: 4, offset: offset, lengthBytes: length)
                return try client.exchange(request, pattern(sends)).error
            }
            #expect(try error(.read, 8192, 1) == 22)
            #expect(try error(.read, .max - 3, 8) == 22)
            #expect(try error(.read, 0, UInt64(UInt32.max)) == 22)
            #expect(try error(.write, 8000, 500, sends: 500) == 28)
            #expect(try error(.write, 1 << 60, 400_000, sends: 400_000) == 28)
            #expect(try error(.write, 0, 2 << 20, sends: 2 << 20) == 28)
            #expect(try error(.writeZeroes, 1, UInt64(UInt32.max)) == 28)
            #expect(try error(.trim, 8191, 2) == 22)
            #expect(try error(.blockStatus, 0, 8192) == 22)
            var unknown = NBDRequest(.read, cookie: 6, offset: 0, lengthBytes: 1)
            unknown.type = 4711
            #expect(try client.exchange(unknown).error == 22)
            #expect(try error(.read, 0, 0) == 0)
            #expect(try error(.write, 8192, 0) == 0)
            #expect(memory.counts == MemoryDevice.Counts())
            #expect(try error(.write, 8000, 192, sends: 192) == 0)
            #expect(memory.bytes(8000, 192) == pattern(192))
        }
    }

    @Test(arguments: Way.all)
    func errorsOfTheDeviceReachTheClient(_ way: Way) async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: way.answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open(
                "disk", form: way.form,
                contexts: way.form.hasChunks ? ["base:allocation"] : [])
            memory.fail(with: .noSpace)
            for size in [4096, 300_000] {
                for command in [NBDCommand.read, .write] {
                    let request = NBDRequest(
                        command, cookie: 5, offset: 0, lengthBytes: UInt64(size))
                    let reply = try client.exchange(
                        request, command == .write ? pattern(size) : [])
                    #expect(reply.error == 28 && reply.cookie == 5)
                    #expect(reply.message.contains("planned failure") == way.form.hasChunks)
                }
            }
            for command in [NBDCommand.flush, .trim, .writeZeroes, .cache, .blockStatus] {
                let request = NBDRequest(command, cookie: 6, offset: 0, lengthBytes: 4096)
                let isOffered = command != .blockStatus || way.form.hasChunks
                #expect(try client.exchange(request).error == (isOffered ? 28 : 22))
            }
            memory.fail(with: nil)
            let read = NBDRequest(.read, cookie: 7, offset: 0, lengthBytes: 16)
            #expect(try client.exchange(read).payload == [UInt8](repeating: 0, count: 16))
        }
    }

    @Test(arguments: [true, false])
    func flushAndFUAReachTheDevice(_ answersNow: Bool) async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20, answersNow: answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            func run(
                _ command: NBDCommand, _ flags: NBDCommandFlags = [], _ size: Int = 4096
            ) throws -> Int {
                let before = memory.counts.flushes
                let request = NBDRequest(
                    command, flags: flags, cookie: 1, offset: 0, lengthBytes: UInt64(size))
                let payload = command == .write ? pattern(size) : []
                #expect(try client.exchange(request, payload).error == 0)
                return memory.counts.flushes - before
            }
            #expect(try run(.flush, [], 0) == 1)
            #expect(try run(.write) == 0)
            #expect(try run(.write, .fua) == 1)
            #expect(try run(.write, .fua, 500_000) == 1)
            #expect(try run(.writeZeroes) == 0)
            #expect(try run(.writeZeroes, [.fua, .noHole]) == 1)
            #expect(try run(.trim, .fua) == 1)
            #expect(try run(.read, .fua) == 0)
            #expect(try run(.cache, []) == 0)
            #expect(memory.counts.unmaps == [true, false])
            #expect(memory.counts.discards == 1)
        }
    }

    @Test func statusTellsAllocationAndDirt() async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20)
        let dirty = ByteRange(offset: 65536, lengthBytes: 131072)
        let export = DeviceExport("disk", memory, bitmaps: ["b0": [dirty]])
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk", contexts: ["base:allocation", "qemu:dirty-bitmap:b0"])
            let write = NBDRequest(.write, cookie: 1, offset: 8192, lengthBytes: 4096)
            #expect(try client.exchange(write, pattern(4096)).error == 0)

            let status = NBDRequest(.blockStatus, cookie: 2, offset: 4096, lengthBytes: 200_000)
            let allocation = try client.exchange(status)
            #expect(allocation.type == 5 && !allocation.isDone)
            #expect(words(allocation.payload) == [1, 4096, 3, 4096, 0, 191_808, 3])
            let bitmap = try client.reply()
            #expect(bitmap.type == 5 && bitmap.isDone && bitmap.cookie == 2)
            #expect(words(bitmap.payload) == [2, 61440, 0, 131072, 1, 7488, 0])

            let one = NBDRequest(
                .blockStatus, flags: .reqOne, cookie: 3, offset: 8192, lengthBytes: 200_000)
            #expect(words(try client.exchange(one).payload) == [1, 4096, 0])
            #expect(words(try client.reply().payload) == [2, 57344, 0])
        }
    }

    @Test func aReadOnlyExportRefusesEveryChange() async throws {
        let memory = MemoryDevice(lengthBytes: 1 << 20)
        let export = DeviceExport("disk", memory, isReadOnly: true)
        try await ServerFixture.run([export]) { fixture in
            let client = try TestClient(connectingTo: fixture.socketPath)
            try client.open("disk")
            for command in [NBDCommand.write, .trim, .writeZeroes] {
                let request = NBDRequest(command, cookie: 1, offset: 0, lengthBytes: 70_000)
                let reply = try client.exchange(request, command == .write ? pattern(70_000) : [])
                #expect(reply.error == 1)
                #expect(reply.message == "the export is read-only")
            }
            let read = NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 4096)
            #expect(try client.exchange(read).error == 0)
        }
        #expect(memory.counts.writesNow == 0)
    }

    private func words(_ payload: [UInt8]) -> [UInt32] {
        stride(from: 0, to: payload.count, by: 4).map { number(payload, $0, UInt32.self) }
    }
}

import BlockCore
import DriverNBD
import Glibc
import TestSupport
import Testing

/// Servers that die, come back, hang and refuse.
@Suite(.serialized) struct NBDFaultTests {
    private let served: ServedImage
    private let content: [UInt8]

    init() throws {
        served = try ServedImage(.nbdkit)
        var random = Seed.generator("NBD faults")
        content = random.bytes(1 << 20)
    }

    /// Patient with nothing.
    private var hasty: NBDOptions {
        var options = NBDOptions()
        options.reconnectLimit = .milliseconds(700)
        options.stallLimit = .milliseconds(700)
        return options
    }

    /// However few there are: none for the socket, none for the event, none for the second
    /// connection.
    @Test func aProcessWithoutDescriptorsGetsAnError() async throws {
        try served.serve(content)
        var failures = 0
        // Until there are enough, which depends on what else this process has open.
        for free in 0..<64 {
            let limit = DescriptorShortage(free: free)
            defer { limit.end() }
            let device: NBDDevice
            do throws(BlockError) {
                device = try served.open()
            } catch {
                failures += 1
                continue
            }
            limit.end()
            try await device.close()
            break
        }
        #expect((3..<64).contains(failures))
        served.stop()
    }

    /// Whoever gives a server up waits neither for one that hangs nor for one that is gone.
    @Test(arguments: [false, true]) func aServerThatIsGivenUpIsNotWaitedFor(isGone: Bool)
        async throws
    {
        try served.serve(content)
        let device = try served.open()
        try await device.put([1], at: 0)
        if isGone { served.stop() } else { served.signal(SIGSTOP) }
        let work = Task { try await device.put([2], at: 5) }
        try await Task.sleep(for: .milliseconds(300))
        let start = ContinuousClock.now
        device.giveUp()
        await #expect(throws: BlockError.self) { try await work.value }
        await #expect(throws: BlockError.self) { try await device.bytes(at: 0, 1) }
        await #expect(throws: BlockError.self) { try await device.close() }
        #expect(ContinuousClock.now - start < .seconds(3))
        if !isGone { served.signal(SIGCONT) }
        served.stop()
    }

    @Test func workGoesOnWhenTheServerIsKilledAndComesBack() async throws {
        try served.serve(content)
        let device = try served.open()
        try await device.put([UInt8](repeating: 0x11, count: 8192), at: 4096)
        try await device.flush()
        let killer = Task { [served] in
            for _ in 0..<3 {
                try await Task.sleep(for: .milliseconds(100))
                served.stop()
                try await Task.sleep(for: .milliseconds(100))
                try served.start()
            }
        }
        var expected = content
        expected.replaceSubrange(4096..<12288, with: [UInt8](repeating: 0x11, count: 8192))
        let end = ContinuousClock.now + .milliseconds(800)
        let readers = (0..<8).map { reader in
            Task { [expected] in
                var count = 0
                while ContinuousClock.now < end {
                    let offset = (reader * 7919 + count * 104_729) % ((1 << 20) - 5000)
                    let bytes = try await device.bytes(at: offset, 5000)
                    #expect(bytes == Array(expected[offset..<offset + 5000]))
                    count += 1
                }
            }
        }
        try await killer.value
        for reader in readers { try await reader.value }
        // Nothing was unflushed when the server died.
        try await device.flush()
        try await device.close()
        served.stop()
    }

    @Test func writesInFlightAreMadeAgainByTheNextServer() async throws {
        try served.serve(content, "delay-write=1")
        let device = try served.open()
        let writers = (0..<16).map { index in
            Task {
                try await device.put(
                    [UInt8](repeating: UInt8(index + 1), count: 5000), at: index * 5000)
            }
        }
        try await Task.sleep(for: .milliseconds(300))
        served.stop()
        try served.start()
        for writer in writers { try await writer.value }
        // None of them had been acknowledged, so none can be lost.
        try await device.flush()
        try await device.close()
        served.stop()
        let now = try readFile(served.image)
        for index in 0..<16 {
            #expect(now[index * 5000..<(index + 1) * 5000].allSatisfy { $0 == UInt8(index + 1) })
        }
    }

    @Test func aFlushDoesNotClaimWhatAnEarlierServerMayHaveLost() async throws {
        try served.serve(content)
        let device = try served.open()
        try await device.put([1, 2, 3], at: 0)
        served.stop()
        try served.start()
        #expect(try await device.bytes(at: 0, 3) == [1, 2, 3])
        for _ in 0..<2 {
            let error = await #expect(throws: BlockError.self) { try await device.flush() }
            #expect(error?.description.contains("not flushed") == true)
            try await device.put([4, 5, 6], at: 0)
        }
        await #expect(throws: BlockError.self) { try await device.close() }
        let again = try served.open()
        try await again.put([7], at: 0)
        try await again.flush()
        try await again.close()
        served.stop()
    }

    @Test func aServerThatStaysAwayFailsWhatWaits() async throws {
        try served.serve(content, "delay-write=2")
        let device = try served.open(hasty)
        let write = Task { try await device.put([1], at: 0) }
        try await Task.sleep(for: .milliseconds(200))
        served.stop()
        let written = await #expect(throws: BlockError.self) { try await write.value }
        #expect(written?.kind == .timedOut)
        let read = await #expect(throws: BlockError.self) { _ = try await device.bytes(at: 0, 1) }
        #expect(read?.kind == .io)
        // Once it is back reads work, and writes are not accepted: one has an unknown outcome.
        try served.start()
        #expect(try await device.bytes(at: 7, 1) == [content[7]])
        let later = await #expect(throws: BlockError.self) { try await device.put([2], at: 0) }
        #expect(later?.description.contains("unknown outcome") == true)
        let flush = await #expect(throws: BlockError.self) { try await device.flush() }
        #expect(flush?.description.contains("unknown outcome") == true)
        try? await device.close()
        served.stop()
    }

    @Test func aWriteAfterOneOfUnknownOutcomeIsNoticed() async throws {
        func stops() async throws -> Bool {
            try served.serve(content, "delay-write=2")
            let device = try served.open(hasty)
            let write = Task { try await device.put([1], at: 0) }
            try await Task.sleep(for: .milliseconds(200))
            served.stop()
            await #expect(throws: BlockError.self) { try await write.value }
            try served.start()
            defer { served.stop() }
            do {
                try await device.put([2], at: 0)
            } catch {
                try? await device.close()
                return true
            }
            try? await device.close()
            return false
        }
        #expect(try await stops())
        Mutant.active = .writeAfterUnknownOutcome
        defer { Mutant.active = nil }
        #expect(try await !stops())
    }

    @Test func aServerThatHangsEndsInTimeAndHoldsUpNothingElse() async throws {
        try served.serve(content)
        var options = hasty
        options.stallLimit = .seconds(2)
        let device = try served.open(options)
        served.signal(SIGSTOP)
        let start = ContinuousClock.now
        let write = Task { try await device.put([1], at: 0) }
        // Swift's own threads are free meanwhile.
        for _ in 0..<20 { try await Task.sleep(for: .milliseconds(5)) }
        #expect(ContinuousClock.now - start < .milliseconds(1500))
        try await Task.sleep(for: .seconds(1))
        // On other connections, on which the server has more time left.
        let later = (1...3).map { index in Task { try await device.put([1], at: index * 4096) } }
        let error = await #expect(throws: BlockError.self) { try await write.value }
        #expect(error?.kind == .timedOut)
        served.signal(SIGCONT)
        // The server does them now. It could as well have done them after a second attempt.
        for write in later {
            let error = await #expect(throws: BlockError.self) { try await write.value }
            #expect(error?.kind == .timedOut)
        }
        #expect(try await device.bytes(at: 9, 2) == Array(content[9..<11]))
        await #expect(throws: BlockError.self) { try await device.put([2], at: 0) }
        try? await device.close()
        served.stop()
    }

    @Test func refusalsOfMoreThanOneRoundLeaveNobodyWaiting() async throws {
        let served = try ServedImage(.nbdkitPlain)
        try served.serve(content, "delay-write=5")
        var options = NBDOptions()
        options.reconnectLimit = .seconds(1)
        let device = try served.open(options)
        let first = Task { try await device.put([1], at: 0) }
        try await Task.sleep(for: .milliseconds(200))
        served.stop()
        let error = await #expect(throws: BlockError.self) { try await first.value }
        #expect(error?.kind == .timedOut)
        // Many times what a connection takes at once, all of it refused when the server is back.
        let finished = HostMutex(0)
        let writes = (0..<500).map { index in
            Task {
                try? await device.put([2], at: index)
                finished.withLock { $0 += 1 }
            }
        }
        try await Task.sleep(for: .milliseconds(100))
        try served.start()
        let end = ContinuousClock.now + .seconds(15)
        while finished.withLock({ $0 }) < 500, ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(finished.withLock({ $0 }) == 500)
        try? await device.close()
        for write in writes { await write.value }
        served.stop()
    }

    @Test func theEndOfTheOnlyConnectionIsSeenWhateverIsBeingDone() async throws {
        let served = try ServedImage(.nbdkitPlain)
        try served.serve(content)
        var options = NBDOptions()
        options.stallLimit = .seconds(10)
        let device = try served.open(options)
        let end = ContinuousClock.now + .seconds(3)
        let readers = (0..<4).map { reader in
            Task {
                var longest = Duration.zero
                while ContinuousClock.now < end {
                    let start = ContinuousClock.now
                    _ = try await device.bytes(at: reader * 4096, 4096)
                    longest = max(longest, ContinuousClock.now - start)
                }
                return longest
            }
        }
        while ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(100))
            served.stop()
            try served.start()
        }
        for reader in readers { #expect(try await reader.value < .seconds(5)) }
        try await device.close()
        served.stop()
    }

    @Test func slowAnswersAreWaitedForSideBySide() async throws {
        try served.serve(content, "delay-read=300ms")
        let device = try served.open()
        let start = ContinuousClock.now
        try await withThrowingTaskGroup(of: Bool.self) { [content] group in
            for index in 0..<32 {
                group.addTask {
                    try await device.bytes(at: index * 100, 100)
                        == Array(content[index * 100..<(index + 1) * 100])
                }
            }
            for try await isRight in group { #expect(isRight) }
        }
        #expect(ContinuousClock.now - start < .seconds(4), "one after the other takes 10 s")
        try await device.close()
        served.stop()
    }

    @Test func errorsOfTheServerArriveAsSuch() async throws {
        for (number, kind) in [
            ("ENOSPC", BlockError.Kind.noSpace), ("EIO", .io), ("EPERM", .readOnly),
        ] {
            try served.serve(content, "error-pwrite=\(number)", "error-pwrite-rate=100%")
            let device = try served.open()
            let error = await #expect(throws: BlockError.self) { try await device.put([1], at: 5) }
            #expect(error?.kind == kind && error?.place == served.uri)
            #expect(try await device.bytes(at: 5, 1) == [content[5]])
            try await device.close()
        }
        served.stop()
    }

    @Test func aCancelledReadKeepsItsMemoryUntilTheServerHasAnswered() async throws {
        try served.serve(content, "delay-read=500ms")
        let device = try served.open()
        let slice = BufferSlice.holding([UInt8](repeating: 0, count: 4096))
        let start = ContinuousClock.now
        let read = Task { try await device.read(at: 0, into: slice) }
        try await Task.sleep(for: .milliseconds(50))
        read.cancel()
        try await read.value
        #expect(ContinuousClock.now - start > .milliseconds(400))
        #expect(slice.array == Array(content[..<4096]))
        try await device.close()
        served.stop()
    }

    @Test func anotherExportInTheOldOnesPlaceIsRefused() async throws {
        try served.serve(content)
        let device = try served.open(hasty)
        try served.serve([UInt8](repeating: 0, count: 2 << 20))
        let error = await #expect(throws: BlockError.self) { _ = try await device.bytes(at: 0, 1) }
        #expect(error?.description.contains("another export") == true)
        try? await device.close()
        served.stop()
    }
}

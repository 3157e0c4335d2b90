import BlockCore
import Filters
import Glibc
import TestSupport
import Testing

/// Which requests a node that injects faults fails.
@Suite struct FaultInjectionTests {
    private func device(
        _ faults: [InjectedFault], _ changes: [FaultStateChange] = []
    ) -> FaultInjection {
        FaultInjection(
            MemoryDevice(lengthBytes: 1 << 20),
            rules: FaultRules(faults: faults, stateChanges: changes))
    }

    private func fails(
        _ errno: Int32, _ body: () async throws -> Void
    ) async {
        do {
            try await body()
            Issue.record("it went well")
        } catch {
            #expect((error as? BlockError)?.errno == errno)
        }
    }

    @Test func aFaultForOnceFailsOneRequest() async throws {
        let device = device([InjectedFault(event: .writeAIO, errno: ENOSPC, isOnce: true)])
        _ = try await device.bytes(at: 0, 512)
        await fails(ENOSPC) { try await device.put([1], at: 5) }
        try await device.put([1], at: 5)
        #expect(try await device.bytes(at: 0, 6) == [0, 0, 0, 0, 0, 1])
    }

    @Test func afterItsEventAFaultFailsEverythingThatItIsFor() async throws {
        let device = device([
            InjectedFault(event: .writeAIO, operations: [.read], errno: EIO)
        ])
        _ = try await device.bytes(at: 0, 512)
        try await device.put([1], at: 5)
        await fails(EIO) { _ = try await device.bytes(at: 0, 512) }
        await fails(EIO) { _ = try await device.bytes(at: 0, 512) }
        try await device.put([1], at: 5)
        try await device.flush()
    }

    @Test func aSectorFailsAndItsNeighboursDoNot() async throws {
        let device = device([InjectedFault(event: .none, sector: 3)])
        _ = try await device.bytes(at: 0, 1536)
        _ = try await device.bytes(at: 2048, 512)
        await fails(EIO) { _ = try await device.bytes(at: 1535, 2) }
        await fails(EIO) { try await device.put([1], at: 2047) }
        try await device.flush()
    }

    @Test func aFlushFails() async throws {
        let device = device([InjectedFault(event: .flushToDisk, operations: [.flush])])
        try await device.put([1], at: 0)
        await fails(EIO) { try await device.flush() }
    }

    @Test func aFaultWaitsForItsState() async throws {
        let device = device(
            [InjectedFault(event: .readAIO, state: 2, isOnce: true)],
            [
                FaultStateChange(event: .writeAIO, state: 1, newState: 2),
                FaultStateChange(event: .flushToDisk, newState: 1),
            ])
        _ = try await device.bytes(at: 0, 512)
        try await device.put([1], at: 0)
        await fails(EIO) { _ = try await device.bytes(at: 0, 512) }
        _ = try await device.bytes(at: 0, 512)
    }

    @Test func whatTheThreadOfAConnectionTriesMeetsFaultsToo() async throws {
        let device = device([InjectedFault(event: .readAIO)])
        let piece = BufferSlice.holding([UInt8](repeating: 0, count: 512))
        #expect(try device.tryRead(at: 0, into: piece.bytes) == .refused)
        #expect(try !device.tryWrite(at: 0, from: piece.readOnlyBytes))
    }
}

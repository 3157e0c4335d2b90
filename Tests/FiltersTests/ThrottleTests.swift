import BlockCore
import Filters
import TestSupport
import Testing

/// What a throttle group lets through.
@Suite(.serialized) struct ThrottleTests {
    private func seconds(
        _ limits: ThrottleLimits, _ body: (Throttle) async throws -> Void
    ) async throws -> Double {
        let device = Throttle(
            MemoryDevice(lengthBytes: 4 << 20), group: ThrottleGroup(name: "g", limits: limits))
        let started = ContinuousClock.now
        try await body(device)
        return (ContinuousClock.now - started) / .seconds(1)
    }

    @Test func bytesGoNoFasterThanTheirRate() async throws {
        let limits = ThrottleLimits(limits: [.bytesTotal: .init(average: 1 << 20)])
        let seconds = try await seconds(limits) { device in
            for piece in 0..<8 {
                try await device.put([UInt8](repeating: 1, count: 65536), at: piece << 16)
            }
        }
        // A tenth of a second's worth, and the last request, may be ahead.
        #expect(seconds > 0.3 && seconds < 2)
    }

    @Test func requestsOfTheOtherDirectionAreFree() async throws {
        let limits = ThrottleLimits(limits: [.operationsWrite: .init(average: 10)])
        let seconds = try await seconds(limits) { device in
            for _ in 0..<100 { _ = try await device.bytes(at: 0, 512) }
        }
        #expect(seconds < 0.5)
    }

    @Test func severalNodesShareAGroup() async throws {
        let group = ThrottleGroup(
            name: "g", limits: ThrottleLimits(limits: [.operationsTotal: .init(average: 50)]))
        let devices = (0..<4).map { _ in
            Throttle(MemoryDevice(lengthBytes: 1 << 20), group: group)
        }
        let started = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for device in devices {
                tasks.addTask { for _ in 0..<10 { _ = try await device.bytes(at: 0, 512) } }
            }
            try await tasks.waitForAll()
        }
        // 40 requests at 50 a second, of which 5 may come at once.
        let seconds = (ContinuousClock.now - started) / .seconds(1)
        #expect(seconds > 0.5 && seconds < 3)
    }

    @Test func aBurstMayComeAtOnce() async throws {
        let limits = ThrottleLimits(
            limits: [.operationsTotal: .init(average: 10, burst: 100, burstSeconds: 1)])
        let seconds = try await seconds(limits) { device in
            for _ in 0..<90 { _ = try await device.bytes(at: 0, 512) }
        }
        #expect(seconds < 0.5)
    }

    @Test func limitsThatMakeNoSenseAreRefused() {
        let wrong: [ThrottleLimits] = [
            ThrottleLimits(limits: [
                .bytesTotal: .init(average: 1), .bytesRead: .init(average: 1),
            ]),
            ThrottleLimits(limits: [.bytesTotal: .init(burst: 5)]),
            ThrottleLimits(limits: [.bytesTotal: .init(average: 5, burst: 4)]),
            ThrottleLimits(limits: [.bytesTotal: .init(average: 5, burstSeconds: 2)]),
            ThrottleLimits(limits: [.bytesTotal: .init(average: 5, burstSeconds: 0)]),
            ThrottleLimits(limits: [.bytesTotal: .init(average: 5)], operationBytes: 512),
        ]
        for limits in wrong { #expect(throws: BlockError.self) { try limits.check() } }
    }
}

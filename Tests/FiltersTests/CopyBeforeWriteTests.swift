import BlockCore
import DriverQcow2
import Filters
import TestSupport
import Testing
import Volumes

/// What a copy-before-write filter keeps.
@Suite(.serialized) struct CopyBeforeWriteTests {
    private let directory: TemporaryDirectory
    private let before: [UInt8]
    private let disk: MemoryDevice
    private static let lengthBytes = (1 << 20) + 700

    init() throws {
        directory = try TemporaryDirectory()
        var random = Seed.generator("copy before write")
        before = random.bytes(Self.lengthBytes)
        disk = MemoryDevice(before)
    }

    private func filter(to target: any BlockDevice) throws -> CopyBeforeWrite {
        var limits = FleeceLimits(directory: directory.path)
        // So little that most of it goes through the spill file.
        limits.memoryBytes = 64 << 10
        return try CopyBeforeWrite(over: disk, target: target, limits: limits)
    }

    private func overlay(_ below: any BlockDevice) throws -> Qcow2Device {
        let path = directory.path("target.qcow2")
        try Qcow2Device.create(
            path: path, lengthBytes: UInt64(Self.lengthBytes).alignedUp(to: 512),
            clusterBytes: 65536)
        return try Qcow2Device.open(path: path, readOnly: false, backing: below)
    }

    /// Whoever looks at the view sees the instant of the filter, whatever is written and wherever the
    /// old content is at the moment.
    @Test func theViewShowsTheInstantWhileItIsWritten() async throws {
        let target = MemoryDevice(lengthBytes: Self.lengthBytes, allocationUnitBytes: 65536)
        let filter = try filter(to: target)
        let view = filter.view
        try await withThrowingTaskGroup(of: Void.self) { group in
            for writer in 0..<4 {
                group.addTask {
                    var random = Seed.generator("copy before write \(writer)")
                    // Each in bytes of its own, as guests do it.
                    let share = Self.lengthBytes / 4
                    for _ in 0..<150 {
                        let offset =
                            writer * share + Int.random(in: 0..<share - 9000, using: &random)
                        let count = Int.random(in: 1...9000, using: &random)
                        let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
                        switch Int.random(in: 0..<4, using: &random) {
                        case 0: try await filter.writeZeroes(range, mayUnmap: true)
                        case 1: try await filter.discard(range)
                        default:
                            try await filter.put(
                                random.bytes(count), at: offset,
                                now: Bool.random(using: &random))
                        }
                    }
                }
            }
            for reader in 0..<2 {
                group.addTask { [before] in
                    var random = Seed.generator("view \(reader)")
                    for _ in 0..<100 {
                        let offset = Int.random(in: 0..<Self.lengthBytes, using: &random)
                        let count = Int.random(
                            in: 1...min(100_000, Self.lengthBytes - offset), using: &random)
                        let seen = try await view.bytes(at: offset, count)
                        try #require(seen == Array(before[offset..<offset + count]))
                    }
                }
            }
            try await group.waitForAll()
        }
        #expect(try await view.bytes(at: 0, Self.lengthBytes) == before)
        #expect(filter.point.failure == nil)
        #expect(disk.content != before)
        for extent in try await view.allExtents(
            in: ByteRange(offset: 0, lengthBytes: UInt64(Self.lengthBytes))) where extent.isZero
        {
            let range = Int(extent.range.offset)..<Int(extent.range.end)
            #expect(before[range].allSatisfy { $0 == 0 })
        }
        try await filter.close()
    }

    /// An image over the view becomes whole where anything was overwritten, and shows the instant.
    @Test func theTargetOverTheViewShowsTheInstant() async throws {
        let slot = LateDevice(lengthBytes: UInt64(Self.lengthBytes))
        let target = try overlay(slot)
        let filter = try filter(to: target)
        slot.show(filter.view)
        var random = Seed.generator("overlay over a view")
        for _ in 0..<60 {
            let offset = Int.random(in: 0..<Self.lengthBytes - 5000, using: &random)
            try await filter.put(random.bytes(5000), at: offset)
            let seen = try await target.bytes(at: offset, 5000)
            #expect(seen == Array(before[offset..<offset + 5000]))
        }
        #expect(try await target.bytes(at: 0, Self.lengthBytes) == before)
        try await filter.close()
    }

    @Test func whatWasOverwrittenIsAtTheTargetInTheEnd() async throws {
        let target = MemoryDevice(lengthBytes: Self.lengthBytes, allocationUnitBytes: 65536)
        let filter = try filter(to: target)
        try await filter.put([1, 2, 3], at: 100_000)
        try await filter.writeZeroes(
            ByteRange(offset: 700_000, lengthBytes: 100), mayUnmap: false)
        let written = [65536..<131_072, 655_360..<720_896]
        for _ in 0..<500 {
            if written.allSatisfy({ target.content[$0] == before[$0] }) { break }
            try await Task.sleep(for: .milliseconds(10))
        }
        for range in written { #expect(target.content[range] == before[range]) }
        #expect(target.content[..<65536].allSatisfy { $0 == 0 })
        try await filter.close()
    }

    @Test func aTargetThatFailsCostsThePointAndNoWrite() async throws {
        let target = FaultDevice(MemoryDevice(lengthBytes: Self.lengthBytes))
        target.fail(.write, lasting: true)
        let filter = try filter(to: target)
        try await filter.put([1], at: 0)
        for _ in 0..<500 where filter.point.failure == nil {
            try await Task.sleep(for: .milliseconds(10))
        }
        #expect(filter.point.failure?.kind == .io)
        try await filter.put([2], at: 1)
        #expect(Array(disk.content[..<2]) == [1, 2])
        await #expect(throws: BlockError.self) { try await filter.view.bytes(at: 0, 1) }
        try await filter.close()
    }
}

/// A device that is made before what it shows.
private final class LateDevice: BlockFilter {
    private let shown = HostMutex<(any BlockDevice)?>(nil)
    private let placeholder: MemoryDevice

    init(lengthBytes: UInt64) { placeholder = MemoryDevice(lengthBytes: Int(lengthBytes)) }

    func show(_ device: any BlockDevice) { shown.withLock { $0 = device } }

    var child: any BlockDevice { shown.withLock { $0 } ?? placeholder }
    var isReadOnly: Bool { true }
}

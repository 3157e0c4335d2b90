import BlockCore
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Space that runs out: in the repository, and for what the guest overwrites.
@Suite struct RoomTests {
    /// Trap: a full target was found out half-way.
    @Test func aRepositoryWithTooLittleRoomIsRefusedBeforehandWithBothFigures() async throws {
        let lab = try await BackupLab(lengthBytes: 8 << 20)
        var random = Seed.generator("room")
        try await lab.volume.write(at: 0, from: .holding(random.bytes(4 << 20)))
        lab.files.limitRoom(toBytes: 5 << 20)
        let error = await #expect(throws: BlockError.self) {
            try await lab.run(lab.backup(.full))
        }
        #expect(error?.kind == .noSpace)
        let text = error?.description ?? ""
        #expect(
            text.contains("\(5 << 20) are free") && text.contains("bytes are needed"), "\(text)")
        #expect(lab.volume.frozenBitmaps().isEmpty)
        lab.files.limitRoom(toBytes: 12 << 20)
        let full = try await lab.makePoint()
        // What an increment needs follows from its bitmap, not from the disk.
        lab.files.limitRoom(toBytes: 6 << 20)
        try await lab.volume.write(at: 0, from: .holding([1]))
        #expect(try await lab.makePoint().parent?.point == full.point)
    }

    @Test func aRepositoryThatFillsUpHalfWayLeavesNothingAndLosesNothing() async throws {
        let lab = try await BackupLab(lengthBytes: 4 << 20)
        var random = Seed.generator("fills up")
        try await lab.change(&random, count: 20)
        let full = try await lab.makePoint()
        for level in [BackupLevel.auto, .full] {
            for room in [0, 100_000, 300_000] as [UInt64] {
                try await lab.change(&random, count: 10)
                lab.files.limitRoom(toBytes: room)
                var unchecked = lab.backup(level)
                unchecked.checksSpace = false
                let backup = unchecked
                let error = await #expect(throws: BlockError.self) {
                    try await lab.run(backup)
                }
                #expect(error?.kind == .noSpace, "\(String(describing: error))")
                #expect(error?.description.contains("vault") == true)
                lab.files.heal()
                #expect(try lab.temporaryNames().isEmpty)
                #expect(lab.volume.frozenBitmaps().isEmpty)
            }
        }
        let next = try await lab.makePoint()
        #expect(next.parent?.point == full.point)
        try await lab.expectCurrent(next.point)
    }

    /// The documented choice: the point is given up, never the guest.
    @Test func aFullFleeceGivesThePointUpAndTheNextBackupIsRight() async throws {
        let lab = try await BackupLab(lengthBytes: 8 << 20)
        var random = Seed.generator("full fleece")
        try await lab.volume.write(at: 0, from: .holding(random.bytes(4 << 20)))
        try await lab.volume.write(at: 4 << 20, from: .holding(random.bytes(4 << 20)))
        try await lab.makePoint()
        let bounds: [(UInt64, UInt64)] = [(256 << 10, 0), (0, 256 << 10), (1 << 20, 1 << 20)]
        for (memory, spill) in bounds {
            var limits = FleeceLimits(
                directory: lab.directory.path,
                budget: FleeceBudget(memoryBytes: memory, spillBytes: spill))
            limits.reserveBytes = 0
            lab.files.pause([.write])
            let held = lab.files.heldCount
            let job = try await lab.start(lab.backup(.full, fleece: limits))
            while lab.files.heldCount == held { try await Task.sleep(for: .milliseconds(2)) }
            // The backup is in the middle: the guest overwrites all of the disk.
            for offset in stride(from: UInt64(0), to: 8 << 20, by: 65536) {
                try await lab.volume.write(at: offset, from: .holding(random.bytes(65536)))
            }
            #expect(limits.budget.usedMemoryBytes <= memory)
            #expect(limits.budget.usedSpillBytes <= spill)
            lab.files.heal()
            await job.wait()
            #expect(job.failure?.kind == .noSpace)
            #expect(job.error?.contains("the guest goes on") == true, "\(job.error ?? "")")
            #expect(lab.volume.frozenBitmaps().isEmpty)
            #expect(try lab.temporaryNames().isEmpty)
            let next = try await lab.makePoint()
            #expect(next.reason == .bitmap)
            try await lab.expectCurrent(next.point)
        }
    }

    /// One bound for all fleeces; what one gives back another takes.
    @Test func allFleecesShareOneBudget() throws {
        let directory = try TemporaryDirectory()
        let budget = FleeceBudget(memoryBytes: 3 << 16, spillBytes: 2 << 16)
        var limits = FleeceLimits(directory: directory.path, budget: budget)
        limits.reserveBytes = 0
        func content(_ byte: UInt8) -> BufferSlice {
            .holding([UInt8](repeating: byte, count: 1 << 16))
        }
        let first = Fleece(blockBytes: 1 << 16, limits: limits)
        var second: Fleece? = Fleece(blockBytes: 1 << 16, limits: limits)
        for block in UInt64(0)..<3 {
            try first.store(content(UInt8(block)), blocks: block..<block + 1)
        }
        for block in UInt64(0)..<2 { try second?.store(content(7), blocks: block..<block + 1) }
        #expect(budget.usedMemoryBytes == 3 << 16 && budget.usedSpillBytes == 2 << 16)
        #expect(throws: BlockError.self) { try first.store(content(3), blocks: 3..<4) }
        let taken = content(0)
        #expect(try first.take(1, into: taken.bytes) == 1)
        #expect(taken.array == [UInt8](repeating: 1, count: 1 << 16))
        try second?.store(content(9), blocks: 5..<6)
        #expect(try second?.take(1, into: taken.bytes) == 1)
        #expect(taken.array == [UInt8](repeating: 7, count: 1 << 16))
        second = nil
        #expect(budget.usedMemoryBytes == 2 << 16 && budget.usedSpillBytes == 0)
    }
}

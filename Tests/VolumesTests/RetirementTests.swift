import Bitmaps
import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// How regions leave the activity log while guests write.
@Suite struct RetirementTests {
    private static let region = VolumeFixture.regionBytes

    @Test func aColdRegionLeavesTheLogWithItsBits() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 3 * Self.region)
        #expect(try queue.announced(volume) == [3])
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        #expect(try queue.announced(volume).isEmpty)
        let recovered = try await fixture.restartAfterCrash()
        #expect(
            try recovered.dirtyRanges("changes") == [
                ByteRange(offset: 3 * Self.region, lengthBytes: VolumeFixture.granularityBytes)
            ])
        try await volume.close()
    }

    @Test func aWriteIntoARetiredRegionAnnouncesItAgain() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        let isDone = try [UInt8](repeating: 2, count: 512).withBytes { (bytes) throws(BlockError) in
            try volume.tryWrite(at: 512 << 10, from: bytes)
        }
        #expect(!isDone)
        try await volume.write([2], at: 512 << 10)
        #expect(try queue.announced(volume) == [0])
        try await volume.close()
    }

    @Test func aRegionThatIsInUseStays() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await Retirement.retireCold(of: [volume], after: .seconds(60), on: queue)
        #expect(try queue.announced(volume) == [0])
        // A write in flight is a use, however long ago it began.
        let hold = try #require(volume.locks.tryAcquire(ByteRange(offset: 4096, lengthBytes: 512)))
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        #expect(try queue.announced(volume) == [0])
        #expect(volume.log.isAnnounced(ByteRange(offset: 0, lengthBytes: 512)))
        volume.locks.release(hold)
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        #expect(try queue.announced(volume).isEmpty)
        try await volume.close()
    }

    @Test func aRetirementThatCannotBeCommittedLosesNothing() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) {
            try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        }
        #expect(try queue.announced(volume) == [0])
        // What the failed commit did may show after a crash: so the region counts as retired.
        #expect(!volume.log.isAnnounced(ByteRange(offset: 0, lengthBytes: 512)))
        try await volume.write([2], at: 512 << 10)
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        let recovered = try await fixture.restartAfterCrash()
        #expect(
            try recovered.dirtyRanges("changes").map(\.offset) == [0, 512 << 10])
        try await volume.close()
    }

    @Test func aboveTheBoundTheColdestAreRetiredAndNoWriteWaitsForIt() async throws {
        let max = UInt64(ActivityLog.regionCountMax)
        let fixture = try VolumeFixture(lengthBytes: (max + 512) * Self.region)
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.discard(ByteRange(offset: 0, lengthBytes: max * Self.region))
        #expect(try queue.announced(volume).count == Int(max))
        #expect(volume.log.regions(unusedFor: .seconds(60)).isEmpty)
        try await volume.write([1], at: 5 * Self.region)
        try await volume.write([1], at: (max + 7) * Self.region)
        // The retirement waits behind the announcement, in steps.
        while try queue.announced(volume).count > max {
            try await queue.run { (_) throws(BlockError) in }
        }
        for _ in 0..<50 { try await queue.run { (_) throws(BlockError) in } }
        let left = try queue.announced(volume)
        #expect(left.count == Int(max) - ActivityLog.regionCountMax / 16)
        #expect(left.contains(5) && left.contains(max + 7))
        #expect(!left.contains(0))
        try await volume.close()
    }

    /// Regions leave the log all the time that writers go on writing into them: after a crash every
    /// granule that was written is dirty.
    @Test(arguments: 0..<3) func writersAndRetirementsMissNoBit(round: Int) async throws {
        var generator = Seed.generator("writersAndRetirementsMissNoBit \(round)")
        let fixture = try VolumeFixture(lengthBytes: 64 * Self.region)
        let (volume, queue) = try await fixture.startWithVolume()
        let offsets = (0..<200).map { _ in
            UInt64.random(in: 0..<fixture.lengthBytes, using: &generator)
        }
        let crashAfter = Int.random(in: 20..<200, using: &generator)
        let retiring = Task {
            while !Task.isCancelled {
                try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
            }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for part in 0..<4 {
                group.addTask {
                    for offset in offsets[..<crashAfter].enumerated()
                    where offset.offset % 4 == part {
                        try await volume.write([9], at: offset.element)
                    }
                }
            }
            try await group.waitForAll()
        }
        retiring.cancel()
        try await retiring.value
        let recovered = try await fixture.restartAfterCrash()
        let dirty = try recovered.dirtyRanges("changes")
        for offset in offsets[..<crashAfter] {
            #expect(dirty.contains { $0.offset <= offset && offset < $0.end }, "round \(round)")
        }
        try await volume.close()
    }

    /// Each rule, broken, is noticed by what the other tests rely on.
    @Test(arguments: [
        Mutant.retireWithoutClosing, .retireWithoutDrain, .retireWithoutChunks,
    ])
    func aRuleOfRetiringThatIsBrokenIsNoticed(mutant: Mutant) async throws {
        #expect(try await losesNothing(), "nothing is broken yet")
        Mutant.active = mutant
        defer { Mutant.active = nil }
        #expect(try await !losesNothing())
    }

    /// One write before a retirement, one in flight during it, one after it; then a crash.
    private func losesNothing() async throws -> Bool {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        let inFlight = ByteRange(offset: Self.region, lengthBytes: 512)
        try await volume.write([1], at: 0)
        try await volume.write([1], at: inFlight.end)
        try await volume.write([1], at: 3 * Self.region)
        let hold = try #require(volume.locks.tryAcquire(inFlight))
        let before = try volume.dirtyRanges("changes")
        try await Retirement.retireCold(of: [volume], after: .zero, on: queue)
        let late = ByteRange(offset: 2 * Self.region - 512, lengthBytes: 512)
        for bitmap in volume.duties.recording { bitmap.mark(late) }
        volume.locks.release(hold)
        try await volume.write([1], at: 512 << 10)
        let written = before + [late, ByteRange(offset: 512 << 10, lengthBytes: 1)]
        let recovered = try await fixture.restartAfterCrash()
        let dirty = try recovered.dirtyRanges("changes")
        try await volume.close()
        return written.allSatisfy { one in dirty.contains { $0.overlaps(one) } }
    }
}

extension CatalogQueue {
    /// The regions of a volume that the catalog holds.
    func announced(_ volume: Volume) throws -> [UInt64] {
        try catalog.announcedRegions(ofVolume: volume.id)
    }
}

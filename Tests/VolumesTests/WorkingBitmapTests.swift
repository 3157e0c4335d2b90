import Bitmaps
import BlockCore
import Catalog
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Volumes

@Suite struct WorkingBitmapTests {
    private static let granularity: UInt64 = 64 << 10

    private func claims(_ working: WorkingBitmap, unitBytes: UInt64 = 1) -> [ByteRange] {
        var ranges: [ByteRange] = []
        while let claim = working.claim(from: 0, lengthMax: 1 << 20, unitBytes: unitBytes) {
            ranges.append(claim.range)
            working.finish(claim, isCopied: true)
        }
        return ranges
    }

    @Test func itRecordsFromItsInstantOnAndIsNoUsersBitmap() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: Self.granularity, seed: .nothing)
        #expect(working.dueBytes == 0 && working.isInStep)
        try await volume.write([1], at: 100_000)
        try await volume.writeZeroes(ByteRange(offset: 4 << 20, lengthBytes: 1), mayUnmap: true)
        #expect(working.dueBytes == 2 * Self.granularity)
        #expect(volume.bitmapStatuses().map(\.name) == ["changes"])
        #expect(
            claims(working) == [
                ByteRange(offset: 65_536, lengthBytes: 65_536),
                ByteRange(offset: 4 << 20, lengthBytes: 65_536),
            ])
        #expect(working.isInStep)
        try await volume.endWorkingBitmap(working)
        try await volume.write([1], at: 0)
        #expect(working.dueBytes == 0)
        #expect(volume.workingBitmaps.isEmpty)
    }

    @Test func aSeedIsTheBitmapWithItsSuccessor() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 1 << 20)
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: 512, seed: .bitmap("changes", settles: true))
        #expect(working.granularityBytes == VolumeFixture.granularityBytes)
        #expect(claims(working) == [ByteRange(offset: 1 << 20, lengthBytes: 65_536)])
        // It goes on recording, and is the job's.
        try await volume.write([1], at: 2 << 20)
        #expect(try volume.dirtyRanges("changes").map(\.offset) == [1 << 20, 2 << 20])
        #expect(volume.bitmapStatuses()[0].isBusy)
        await #expect(throws: BlockError.self) { try await volume.clearBitmap("changes") }
        await #expect(throws: BlockError.self) { try await volume.removeBitmap("changes") }
        try await volume.endWorkingBitmap(working)
        #expect(try volume.dirtyRanges("changes").map(\.offset) == [1 << 20, 2 << 20])
        try await volume.clearBitmap("changes")
    }

    @Test func aSettledBitmapTellsWhatTheTargetLacks() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 1 << 20)
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: 512, seed: .bitmap("changes", settles: true))
        #expect(claims(working).count == 1)
        try await working.settle { () throws(BlockError) in }
        try await volume.write([1], at: 3 << 20)
        try await volume.endWorkingBitmap(working, settling: "changes")
        #expect(try volume.dirtyRanges("changes").map(\.offset) == [3 << 20])
        try await volume.write([1], at: 5 << 20)
        #expect(try volume.dirtyRanges("changes").map(\.offset) == [3 << 20, 5 << 20])
        let after = try await fixture.restartAfterCrash()
        let ranges = try after.dirtyRanges("changes")
        #expect(ranges.map(\.offset) == [3 << 20, 5 << 20], "\(ranges)")
    }

    @Test func whatIsCopiedAndNotFlushedIsStillMarkedAfterACrash() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: Self.granularity, seed: .everything)
        #expect(claims(working).reduce(0) { $0 + $1.lengthBytes } == 8 << 20)
        try await volume.persistAhead()
        let lost = try await fixture.restartAfterCrash()
        #expect(try #require(lost.workingBitmaps.first).dueBytes == 8 << 20)
        #expect(lost.workingBitmaps[0].jobID == "mirror")
        #expect(lost.bitmapStatuses().map(\.name) == ["changes"])

        await #expect(throws: BlockError.self) {
            try await working.settle { () throws(BlockError) in
                throw BlockError(.io, "flush", on: "target")
            }
        }
        try await volume.persistAhead()
        #expect(try await fixture.restartAfterCrash().workingBitmaps[0].dueBytes == 8 << 20)

        try await working.settle { () throws(BlockError) in }
        try await volume.write([1], at: 4 << 20)
        try await volume.persistAhead()
        let settled = try await fixture.restartAfterCrash().workingBitmaps[0]
        // The region that was written, in the log, and no more.
        #expect(settled.dueBytes == VolumeFixture.regionBytes)
    }

    /// A granule that is written, or copied once more, while the flush is under way stays.
    @Test func aFlushSettlesOnlyWhatWasCopiedBeforeIt() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: Self.granularity, seed: .nothing)
        for granule in 0..<4 { try await volume.write([1], at: UInt64(granule) << 16) }
        #expect(claims(working).count == 1)
        try await working.settle { () async throws(BlockError) in
            // 0 stays clean; 1 is due, 2 copied once more, 3 in flight when the flush has ended.
            for granule in 1..<4 { try await volume.write([1], at: UInt64(granule) << 16) }
            let second = working.claim(from: 2 << 16, lengthMax: 1 << 16, unitBytes: 1)!
            working.finish(second, isCopied: true)
            _ = working.claim(from: 3 << 16, lengthMax: 1 << 16, unitBytes: 1)!
        }
        let marked = (0..<5).filter { working.unsettled.isDirty(at: UInt64($0) << 16) }
        #expect(marked == [1, 2, 3])
    }

    @Test func claimsAreWholeUnitsAndNeverOverlap() async throws {
        let fixture = try VolumeFixture(lengthBytes: (8 << 20) + 77)
        let (volume, _) = try await fixture.startWithVolume()
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: 4096, seed: .nothing)
        working.mark(ByteRange(offset: 70_000, lengthBytes: 1))
        working.mark(ByteRange(offset: (8 << 20) + 70, lengthBytes: 1))
        let first = try #require(working.claim(from: 0, lengthMax: 4096, unitBytes: 65_536))
        #expect(first.range == ByteRange(offset: 65_536, lengthBytes: 65_536))
        // Written again while it is in flight: it is due, and not to be had.
        working.mark(ByteRange(offset: 80_000, lengthBytes: 1))
        let second = try #require(working.claim(from: 0, lengthMax: 4096, unitBytes: 65_536))
        #expect(second.range == ByteRange(offset: 8 << 20, lengthBytes: 77))
        #expect(working.claim(from: 0, lengthMax: 4096, unitBytes: 65_536) == nil)
        #expect(!working.isInStep)
        working.finish(first, isCopied: true)
        working.finish(second, isCopied: false)
        #expect(working.dueBytes == 8192)
    }

    @Test func aVolumeThatIsCopiedIsNeitherResizedNorClosed() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: 4096, seed: .nothing)
        await #expect(throws: BlockError.self) { try await volume.resize(to: 9 << 20) }
        await #expect(throws: BlockError.self) { _ = try await volume.closeUnlessBusy() }
        try await volume.endWorkingBitmap(working)
        try await volume.resize(to: 9 << 20)
    }
}

extension WorkingBitmapTests {
    /// Counts what it is told, and may refuse to do it.
    private final class Recorder: WriteFollower {
        let ranges = Mutex<[ByteRange]>([])
        let working: WorkingBitmap
        let isRefusing = Atomic<Bool>(false)

        init(_ working: WorkingBitmap) { self.working = working }

        func follow(_ range: ByteRange, _ change: WriteChange) async {
            ranges.withLock { $0.append(range) }
            _ = await working.follow(range) { [self] in !isRefusing.load(ordering: .relaxed) }
        }
    }

    @Test func aFollowerClearsOnlyWhatItCoversWhole() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let working = try await volume.addWorkingBitmap(
            jobID: "mirror", granularityBytes: 4096, seed: .everything)
        let recorder = Recorder(working)
        try await volume.setFollower(recorder, of: working)
        let all = working.dueBytes
        try await volume.write([UInt8](repeating: 1, count: 9000), at: 100)
        // From 4096 to 8192 it is whole, on both sides it is not.
        #expect(working.dueBytes == all - 4096)
        #expect(!working.due.isDirty(at: 4096) && working.due.isDirty(at: 8192))
        #expect(recorder.ranges.withLock { $0 } == [ByteRange(offset: 100, lengthBytes: 9000)])
        recorder.isRefusing.store(true, ordering: .relaxed)
        try await volume.writeZeroes(ByteRange(offset: 5000, lengthBytes: 1), mayUnmap: true)
        #expect(working.due.isDirty(at: 4096))
        #expect(try volume.tryWrite(at: 0, from: BufferSlice.holding([1]).readOnlyBytes) == false)

        try await volume.setFollower(nil, of: working)
        while let claim = working.claim(from: 0, lengthMax: 1 << 20, unitBytes: 1) {
            working.finish(claim, isCopied: true)
        }
        try await volume.write([1], at: 0)
        #expect(working.dueBytes == 4096)
        #expect(recorder.ranges.withLock { $0.count } == 2)
    }
}

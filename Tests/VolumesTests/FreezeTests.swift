import Bitmaps
import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

@Suite struct FreezeTests {
    private func request(
        _ fixture: VolumeFixture, _ volume: Volume, _ queue: CatalogQueue,
        _ pointID: String = "point-1", after parent: String? = nil, memoryBytes: UInt64 = 1 << 20
    ) throws -> FreezeRequest {
        let repositoryID = try queue.catalog.write { (transaction) throws(CatalogError) in
            let known = try transaction.repositories()
            if let first = known.first { return first.id }
            return try transaction.insertRepository(
                RepositoryRecord(uuid: UUID(), name: "vault", location: "/nowhere")
            ).id
        }
        var limits = FleeceLimits(directory: fixture.directory.path)
        limits.memoryBytes = memoryBytes
        return FreezeRequest(
            volume: volume, bitmapName: "changes",
            granularityBytes: VolumeFixture.granularityBytes,
            point: PointReference(repositoryID: repositoryID, pointID: pointID),
            parent: parent.map { PointReference(repositoryID: repositoryID, pointID: $0) },
            fleece: limits)
    }

    private func record(_ request: FreezeRequest) throws -> PointRecord {
        PointRecord(
            id: request.point.pointID, repositoryID: request.point.repositoryID,
            volumeUUID: try #require(UUID(uuidString: request.volume.uuid)),
            volumeName: request.volume.name, level: "full", reason: "first", createdAt: Date(),
            lengthBytes: request.volume.lengthBytes, storedBytes: 0)
    }

    @Test func aPointShowsTheInstantOfTheFreezeWhateverIsWrittenMeanwhile() async throws {
        let fixture = try VolumeFixture(lengthBytes: (4 << 20) + 777)
        let (volume, queue) = try await fixture.startWithVolume()
        var random = Seed.generator("point in time")
        try await volume.write(random.bytes(4 << 20), at: 300)
        let expected = try await volume.contents()
        // The memory bound is small, so that most of what is kept is spilled.
        let frozen = try await Freeze.take([
            try request(fixture, volume, queue, memoryBytes: 256 << 10)
        ]).volumes[0]

        let writer = Task {
            var random = Seed.generator("point in time, writer")
            for _ in 0..<400 {
                let length = Int.random(in: 1...40_000, using: &random)
                let offset = UInt64.random(
                    in: 0...(volume.lengthBytes - UInt64(length)), using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0:
                    try await volume.writeZeroes(
                        ByteRange(offset: offset, lengthBytes: UInt64(length)), mayUnmap: true)
                case 1:
                    try await volume.discard(
                        ByteRange(offset: offset, lengthBytes: UInt64(length)))
                default: try await volume.write(random.bytes(length), at: offset)
                }
            }
        }
        var seen: [UInt8] = []
        var offset: UInt64 = 0
        while offset < volume.lengthBytes {
            let end = min(offset + (192 << 10), volume.lengthBytes)
            let piece = BufferPool.shared.take(192 << 10).prefix(Int(end - offset))
            try await frozen.point.read(ByteRange(offset: offset, end: end), into: piece)
            seen += piece.array
            offset = end
            try await Task.sleep(for: .milliseconds(2))
        }
        #expect(seen == expected)
        try await writer.value
        try await frozen.bitmap.mergeBack(releasing: frozen.point)
        try await volume.close()
    }

    @Test func promotionLeavesWhatWasWrittenSinceTheFreeze() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        let full = try request(fixture, volume, queue)
        let first = try await Freeze.take([full]).volumes[0]
        #expect(first.dirty == nil)
        try await first.bitmap.promote(try record(full), releasing: first.point)
        try await volume.write([1], at: 0)
        let request = try request(fixture, volume, queue, "point-2", after: "point-1")
        let frozen = try await Freeze.take([request]).volumes[0]
        #expect(frozen.dirty?.dirtyBytes == VolumeFixture.granularityBytes)
        try await volume.write([1], at: 2 << 20)
        try await frozen.bitmap.promote(try record(request), releasing: frozen.point)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 2 << 20, lengthBytes: 64 << 10)]
        )
        #expect(volume.bitmapStatuses()[0].continues == request.point)
        let recovered = try await fixture.restartAfterCrash()
        #expect(
            try recovered.dirtyRanges("changes") == [
                ByteRange(offset: 2 << 20, lengthBytes: 1 << 20)
            ])
        try await volume.close()
    }

    @Test func aBitmapThatChangedSinceThePlanIsNotFrozenForAnIncrement() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        for (made, planned) in [("point-1", "point-0"), ("point-2", "point-0")] {
            // Another backup promoted the bitmap after this one had been planned.
            let other = try request(fixture, volume, queue, made)
            let frozen = try await Freeze.take([other]).volumes[0]
            try await frozen.bitmap.promote(try record(other), releasing: frozen.point)
            let stale = try request(fixture, volume, queue, "point-9", after: planned)
            let error = await #expect(throws: BlockError.self) {
                _ = try await Freeze.take([stale])
            }
            #expect(error?.kind == .busy)
        }
        try await volume.clearBitmap("changes")
        let stale = try request(fixture, volume, queue, "point-9", after: "point-2")
        await #expect(throws: BlockError.self) { _ = try await Freeze.take([stale]) }
        #expect(volume.frozenBitmaps().isEmpty)
        try await volume.close()
    }

    @Test func mergingBackLosesNothing() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        let frozen = try await Freeze.take([try request(fixture, volume, queue)]).volumes[0]
        try await volume.write([1], at: 2 << 20)
        try await frozen.bitmap.mergeBack(releasing: frozen.point)
        let expected = [
            ByteRange(offset: 0, lengthBytes: 64 << 10),
            ByteRange(offset: 2 << 20, lengthBytes: 64 << 10),
        ]
        #expect(try volume.dirtyRanges("changes") == expected)
        #expect(volume.bitmapStatuses()[0].continues == nil)
        try await volume.write([1], at: 4 << 20)
        #expect(try volume.dirtyRanges("changes").count == 3)
        try await volume.close()
    }

    @Test func aCrashDuringABackupKeepsBothBitmapsUntilTheOutcomeIsKnown() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        let request = try request(fixture, volume, queue)
        _ = try await Freeze.take([request])
        try await volume.write([1], at: 2 << 20)

        let undone = try await fixture.restartAfterCrash()
        let frozen = try #require(undone.frozenBitmaps().first)
        #expect(frozen.pending == request.point)
        try await frozen.mergeBack()
        let union = try undone.dirtyRanges("changes")
        #expect(union.contains { $0.contains(ByteRange(offset: 0, lengthBytes: 1)) })
        #expect(union.contains { $0.contains(ByteRange(offset: 2 << 20, lengthBytes: 1)) })

        let promoted = try await fixture.restartAfterCrash()
        try await #require(promoted.frozenBitmaps().first).promote(try record(request))
        #expect(
            try promoted.dirtyRanges("changes") == [
                ByteRange(offset: 2 << 20, lengthBytes: 1 << 20)
            ])
    }

    @Test func aFreezeWhoseCommitFailsHasNotHappened() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        let request = try request(fixture, volume, queue)
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) { _ = try await Freeze.take([request]) }
        #expect(volume.frozenBitmaps().isEmpty)
        #expect(volume.duties.points.isEmpty)
        try await volume.write([1], at: 5 << 20)
        let recovered = try await fixture.restartAfterCrash().dirtyRanges("changes")
        for offset in [UInt64(0), 5 << 20] {
            #expect(recovered.contains { $0.contains(ByteRange(offset: offset, lengthBytes: 1)) })
        }
        try await volume.close()
    }

    @Test func aFreezeThatCannotDrainGivesUpAtItsDeadline() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        let hold = try #require(volume.locks.tryAcquire(ByteRange(offset: 0, lengthBytes: 1)))
        let request = try request(fixture, volume, queue)
        await #expect(throws: BlockError.self) {
            _ = try await Freeze.take([request], deadline: .milliseconds(50))
        }
        volume.locks.release(hold)
        #expect(volume.frozenBitmaps().isEmpty)
        try await volume.write([1], at: 0)
        try await volume.close()
    }

    /// Else the first write into each of a busy guest's regions would wait for a commit.
    @Test func aFreezeHasTheRegionsOfABusyGuestAnnouncedAgain() async throws {
        let fixture = try VolumeFixture(lengthBytes: 128 << 20)
        let (volume, queue) = try await fixture.startWithVolume()
        for region in UInt64(0)..<100 { try await volume.write([1], at: region << 20) }
        let frozen = try await Freeze.take([try request(fixture, volume, queue)]).volumes[0]
        let new: [UInt8] = [2]
        for region in UInt64(0)..<100 {
            var isDone = false
            for _ in 0..<500 where !isDone {
                isDone = try new.withUnsafeBytes {
                    try volume.tryWrite(at: region << 20, from: $0)
                }
                if !isDone { try await Task.sleep(for: .milliseconds(10)) }
            }
            #expect(isDone, "region \(region)")
        }
        let recovered = try await fixture.restartAfterCrash()
        #expect(try recovered.dirtyRanges("changes").count == 1)
        try await frozen.bitmap.mergeBack(releasing: frozen.point)
        try await volume.close()
    }

    @Test func aFreezeWithoutADeadlineIsNoticed() async throws {
        func givesUp() async throws -> Bool {
            let fixture = try VolumeFixture()
            let (volume, queue) = try await fixture.startWithVolume()
            let hold = try #require(volume.locks.tryAcquire(ByteRange(offset: 0, lengthBytes: 1)))
            let request = try request(fixture, volume, queue)
            let end = Task {
                try await Task.sleep(for: .milliseconds(300))
                volume.locks.release(hold)
            }
            defer { end.cancel() }
            do throws(BlockError) {
                _ = try await Freeze.take([request], deadline: .milliseconds(50))
                return false
            } catch {
                return true
            }
        }
        #expect(try await givesUp())
        Mutant.active = .freezeWithoutDeadline
        defer { Mutant.active = nil }
        #expect(try await !givesUp())
    }

    @Test func aFullFleeceGivesThePointUpAndNotTheGuest() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        var request = try request(fixture, volume, queue)
        // Each write keeps one block of 4 KiB.
        request.fleece.memoryBytes = 8 << 10
        request.fleece.spillBytes = 8 << 10
        let frozen = try await Freeze.take([request]).volumes[0]
        for megabyte in UInt64(0)..<8 { try await volume.write([1], at: megabyte << 20) }
        #expect(frozen.point.failure?.kind == .noSpace)
        try await frozen.bitmap.mergeBack(releasing: frozen.point)
        #expect(try volume.dirtyRanges("changes").count == 8)
        try await volume.close()
    }
}

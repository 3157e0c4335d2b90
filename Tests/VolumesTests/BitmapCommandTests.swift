import BlockCore
import TestSupport
import Testing

@testable import Volumes

@Suite struct BitmapCommandTests {
    @Test func clearingMakesABitmapCleanAlsoAfterACrash() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await volume.clearBitmap("changes")
        #expect(try volume.dirtyRanges("changes").isEmpty)
        #expect(try await fixture.restartAfterCrash().dirtyRanges("changes").isEmpty)
        try await volume.write([1], at: 1 << 20)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 1 << 20, lengthBytes: 64 << 10)]
        )
        try await volume.close()
    }

    @Test func aChangeWhoseCommitFailsHasNotHappened() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        let before = try volume.dirtyRanges("changes")
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) { try await volume.clearBitmap("changes") }
        #expect(try volume.dirtyRanges("changes") == before)
        let recovered = try await fixture.restartAfterCrash().dirtyRanges("changes")
        #expect(recovered.contains { $0.contains(before[0]) })
        // It goes on recording, and what it records survives.
        try await volume.write([1], at: 4 << 20)
        let later = try await fixture.restartAfterCrash().dirtyRanges("changes")
        #expect(later.contains { $0.contains(ByteRange(offset: 4 << 20, lengthBytes: 1)) })
        try await volume.close()
    }

    @Test func mergingAddsTheDirtOfBitmapsOfAnyGranularity() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.addBitmap("fine", granularityBytes: 512)
        try await volume.addBitmap("sum", granularityBytes: 4096, isRecording: false)
        try await volume.write([1], at: 70_000)
        try await volume.mergeBitmaps(
            [BitmapLocation(volume: volume, name: "fine")], into: "sum")
        #expect(
            try volume.dirtyRanges("sum") == [ByteRange(offset: 69_632, lengthBytes: 4096)])
        #expect(
            try await fixture.restartAfterCrash().dirtyRanges("sum")
                == volume.dirtyRanges("sum"))
        try await volume.close()
    }

    @Test(arguments: ["", String(repeating: "x", count: 1024), "changes"])
    func aNameThatIsEmptyTooLongOrTakenIsRefused(name: String) async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        await #expect(throws: BlockError.self) { try await volume.addBitmap(name) }
        #expect(volume.bitmapStatuses().count == 1)
        try await volume.close()
    }

    @Test func aRemovedBitmapIsGoneAndItsNameIsFree() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await volume.removeBitmap("changes")
        #expect(volume.bitmapStatuses().isEmpty)
        try await volume.addBitmap("changes")
        #expect(try volume.dirtyRanges("changes").isEmpty)
        await #expect(throws: BlockError.self) { try await volume.removeBitmap("other") }
        try await volume.close()
    }
}

import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

@Suite struct WritePathTests {
    @Test func theFirstWriteIntoARegionRefusesToBeDoneAtOnceAndLaterOnesDoNot() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let bytes = [UInt8](repeating: 7, count: 512)
        let before = try bytes.withBytes { (bytes) throws(BlockError) in
            try volume.tryWrite(at: 0, from: bytes)
        }
        #expect(!before)
        #expect(try volume.dirtyRanges("changes").isEmpty)
        try await volume.write(bytes, at: 0)
        let after = try bytes.withBytes { (bytes) throws(BlockError) in
            try volume.tryWrite(at: 4096, from: bytes)
        }
        #expect(after)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 0, lengthBytes: 64 << 10)])
        try await volume.close()
    }

    @Test func aWriteWhoseRegionCannotBeAnnouncedDoesNotReachTheImage() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) {
            try await volume.write([UInt8](repeating: 1, count: 4096), at: 0)
        }
        #expect(try await volume.contents().allSatisfy { $0 == 0 })
        try await volume.write([UInt8](repeating: 1, count: 4096), at: 0)
        #expect(try await volume.contents()[..<4096].allSatisfy { $0 == 1 })
        try await volume.close()
    }

    @Test func afterACrashEveryRegionThatWasWrittenIsDirtyAndNoOther() async throws {
        let fixture = try VolumeFixture(lengthBytes: 8 << 20)
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: (3 << 20) + 5)
        try await volume.writeZeroes(
            ByteRange(offset: 6 << 20, lengthBytes: 1), mayUnmap: true)
        let recovered = try await fixture.restartAfterCrash()
        #expect(
            try recovered.dirtyRanges("changes") == [
                ByteRange(offset: 3 << 20, lengthBytes: 1 << 20),
                ByteRange(offset: 6 << 20, lengthBytes: 1 << 20),
            ])
        try await volume.close()
    }

    @Test func aCleanCloseKeepsTheBitsExactly() async throws {
        let fixture = try VolumeFixture()
        let (volume, queue) = try await fixture.startWithVolume()
        try await volume.write([1], at: 3 << 20)
        let before = try volume.dirtyRanges("changes")
        #expect(before == [ByteRange(offset: 3 << 20, lengthBytes: 64 << 10)])
        try await volume.close()
        try queue.catalog.close()
        let reopened = try await fixture.start().store.volume("disk")
        #expect(try reopened.dirtyRanges("changes") == before)
    }

    @Test func aDisabledBitmapRecordsNothingAndLearnsNothingFromACrash() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        try await volume.setBitmap("changes", recording: false)
        let before = try volume.dirtyRanges("changes")
        try await volume.write([1], at: 5 << 20)
        #expect(try volume.dirtyRanges("changes") == before)
        let recovered = try await fixture.restartAfterCrash()
        #expect(try recovered.dirtyRanges("changes") == before)
        try await volume.close()
    }

    @Test func aRequestBeyondTheEndIsRefusedAndMarksNothing() async throws {
        let fixture = try VolumeFixture(lengthBytes: 1_000_001)
        let (volume, _) = try await fixture.startWithVolume()
        await #expect(throws: BlockError.self) {
            try await volume.write([1, 2], at: 1_000_000)
        }
        #expect(try volume.dirtyRanges("changes").isEmpty)
        try await volume.write([9], at: 1_000_000)
        #expect(
            try volume.dirtyRanges("changes") == [ByteRange(offset: 983_040, end: 1_000_001)])
        try await volume.close()
    }
}

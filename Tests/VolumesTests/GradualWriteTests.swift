import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// Writes whose content comes little by little.
@Suite struct GradualWriteTests {
    private let range = ByteRange(offset: 1 << 20, lengthBytes: 256 << 10)

    @Test func anInstantComesBeforeOrAfterAllOfOne() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([9], at: range.offset)  // The region is announced.
        try await volume.write([9], at: range.end - 1)
        let write = try #require(try volume.tryBeginWrite(range))
        let piece = [UInt8](repeating: 5, count: 128 << 10)
        #expect(
            try piece.withUnsafeBytes { (bytes) throws in
                try write.tryWrite(at: range.offset, from: bytes)
            })
        let change = Task {
            _ = try await QuietTransaction.run([.change(volume, .setRecording("changes", false))])
        }
        try await Task.sleep(for: .milliseconds(200))
        #expect(volume.bitmapStatuses()[0].isRecording)
        // Whoever overlaps it waits too, now or later.
        #expect(try volume.tryBeginWrite(ByteRange(offset: range.end - 1, lengthBytes: 9)) == nil)
        #expect(
            try piece.withUnsafeBytes { (bytes) throws in
                try write.tryWrite(at: range.offset + (128 << 10), from: bytes)
            })
        write.end()
        try await change.value
        let dirty = try volume.dirtyRanges("changes")
        #expect(dirty.contains { $0.contains(range) })
        #expect(
            try await volume.contents()[Int(range.offset)..<Int(range.end)].allSatisfy { $0 == 5 })
        try await volume.close()
    }

    @Test func oneIsNotBegunWhereAWriteWouldWait() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        // Nobody has announced the region.
        #expect(try volume.tryBeginWrite(range) == nil)
        try await volume.write([9], at: range.offset)
        let hold = try #require(volume.locks.tryAcquire(range))
        #expect(try volume.tryBeginWrite(range) == nil)
        volume.locks.release(hold)
        #expect(throws: BlockError.self) {
            try volume.tryBeginWrite(ByteRange(offset: volume.lengthBytes, lengthBytes: 1))
        }
        try await volume.close()
    }
}

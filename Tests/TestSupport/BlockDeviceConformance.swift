package import BlockCore
import Glibc
import Testing

// What every block device must do, whatever stands behind it. A driver's tests make a `Fixture`
// and run `runAll` on it.

/// How the suite gets at a kind of device.
package struct DeviceFixture: Sendable, CustomTestStringConvertible {
    /// What the content is at first, and thereby how long the device is.
    package let content: [UInt8]
    /// Opens the same device again each time it is called, the last one being closed; nil for one
    /// that keeps nothing.
    package let reopen: (@Sendable () async throws -> any BlockDevice)?
    /// Makes a new device with `content` in it.
    package let make: @Sendable () async throws -> any BlockDevice
    package let testDescription: String

    package init(
        _ description: String, content: [UInt8],
        make: @escaping @Sendable () async throws -> any BlockDevice,
        reopen: (@Sendable () async throws -> any BlockDevice)? = nil
    ) {
        testDescription = description
        self.content = content
        self.make = make
        self.reopen = reopen
    }
}

/// The suite: each function makes its own device and records what is wrong.
package struct BlockDeviceConformance: Sendable {
    private let fixture: DeviceFixture
    private var length: Int { fixture.content.count }

    package init(_ fixture: DeviceFixture) { self.fixture = fixture }

    /// Runs all of it.
    package func runAll() async throws {
        try await readsWhatItHolds()
        try await writesAtTheEdges()
        try await refusesWhatIsOutside()
        try await zeroesWhatItIsAsked()
        try await discardsToOldDataOrZeroes()
        try await mapsConsistently()
        try await refusesNowWithoutSideEffect()
        try await servesConcurrentWriters()
        try await followsTheModel(steps: 150)
    }

    /// The initial content is there, whole and in odd pieces.
    package func readsWhatItHolds() async throws {
        let device = try await fixture.make()
        #expect(device.lengthBytes == UInt64(length))
        #expect(device.allocationUnitBytes >= 512 && device.allocationUnitBytes.isPowerOfTwo)
        try await expectContent(of: device, fixture.content, "at first")
        for (offset, count) in edges(of: device) {
            let read = try await device.bytes(at: offset, count)
            #expect(read == Array(fixture.content[offset..<offset + count]))
        }
        try await device.close()
    }

    /// Unaligned writes change what they should and nothing around.
    package func writesAtTheEdges() async throws {
        let device = try await fixture.make()
        var model = fixture.content
        for (index, (offset, count)) in edges(of: device).enumerated() {
            let bytes = [UInt8](repeating: UInt8(index + 1), count: count)
            try await device.put(bytes, at: offset)
            model.replaceSubrange(offset..<offset + count, with: bytes)
        }
        try await expectContent(of: device, model, "after writes")
        try await expectPersistence(of: device, model)
    }

    /// Requests beyond the end throw `outOfRange` and change nothing; empty ones do nothing.
    package func refusesWhatIsOutside() async throws {
        let device = try await fixture.make()
        let end = UInt64(length)
        let piece = BufferSlice.holding([UInt8](repeating: 0xEE, count: 64))
        for offset in [end, end - 1, end + 1, UInt64.max - 3] {
            let range = ByteRange(offset: offset, lengthBytes: 64)
            await expectOutOfRange { try await device.write(at: offset, from: piece) }
            await expectOutOfRange { try await device.read(at: offset, into: piece) }
            await expectOutOfRange { try await device.writeZeroes(range, mayUnmap: true) }
            await expectOutOfRange { try await device.discard(range) }
            await expectOutOfRange { _ = try await device.extents(in: range, limit: 1) }
            await expectOutOfRange {
                _ = try device.tryWrite(at: offset, from: piece.readOnlyBytes)
            }
            await expectOutOfRange { _ = try device.tryRead(at: offset, into: piece.bytes) }
        }
        let empty = piece.slice(0, 0)
        try await device.write(at: end, from: empty)
        try await device.read(at: end, into: empty)
        try await device.writeZeroes(ByteRange(offset: end, lengthBytes: 0), mayUnmap: false)
        try await device.discard(ByteRange(offset: 0, lengthBytes: 0))
        try await expectContent(of: device, fixture.content, "after refused requests")
        try await device.close()
    }

    /// Zeroes are exact, with and without `mayUnmap`, over data and over nothing.
    package func zeroesWhatItIsAsked() async throws {
        for mayUnmap in [false, true] {
            let device = try await fixture.make()
            var model = [UInt8](repeating: 0xA5, count: length)
            try await device.put(model, at: 0)
            for (offset, count) in edges(of: device) {
                try await device.writeZeroes(
                    ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count)),
                    mayUnmap: mayUnmap)
                model.replaceSubrange(
                    offset..<offset + count, with: [UInt8](repeating: 0, count: count))
            }
            try await expectContent(of: device, model, "after zeroes over data")
            try await device.writeZeroes(
                ByteRange(offset: 0, lengthBytes: UInt64(length)), mayUnmap: mayUnmap)
            model = [UInt8](repeating: 0, count: length)
            try await expectContent(of: device, model, "after zeroes over all")
            try await device.put([7, 8, 9], at: length / 2)
            model.replaceSubrange(length / 2..<length / 2 + 3, with: [7, 8, 9])
            try await expectPersistence(of: device, model)
        }
        let device = try await fixture.make()
        var model = fixture.content
        for (offset, count) in edges(of: device) {
            try await device.writeZeroes(
                ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count)), mayUnmap: true)
            model.replaceSubrange(
                offset..<offset + count, with: [UInt8](repeating: 0, count: count))
        }
        try await expectContent(of: device, model, "after zeroes over the first content")
        try await expectPersistence(of: device, model)
    }

    /// After a discard every byte is what it was or zero, and nothing around changes.
    package func discardsToOldDataOrZeroes() async throws {
        let device = try await fixture.make()
        var model = fixture.content
        let written = [UInt8](repeating: 0x3C, count: length / 2)
        try await device.put(written, at: length / 4)
        model.replaceSubrange(length / 4..<length / 4 + written.count, with: written)
        for (offset, count) in edges(of: device) {
            try await device.discard(
                ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count)))
            let now = try await device.bytes(at: 0, length)
            model = zeroing(model, offset..<offset + count, where: now)
            #expect(
                now.firstDifference(from: model) == nil,
                "after a discard of \(count) bytes at \(offset)")
        }
        try await device.flush()
        let again = [UInt8](repeating: 0x77, count: length)
        try await device.put(again, at: 0)
        try await expectPersistence(of: device, again)
    }

    /// Extents cover a range without gaps, honour the limit, and what they call zero is zero.
    package func mapsConsistently() async throws {
        let device = try await fixture.make()
        let unit = Int(min(device.allocationUnitBytes, UInt64(length / 4)))
        try await device.put([UInt8](repeating: 1, count: unit), at: 0)
        try await device.writeZeroes(
            ByteRange(offset: UInt64(unit), lengthBytes: UInt64(unit)), mayUnmap: true)
        let content = try await device.bytes(at: 0, length)
        for (offset, count) in edges(of: device) + [(0, length)] {
            let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
            var position = range.offset
            for extent in try await device.allExtents(in: range) {
                #expect(extent.range.offset == position && !extent.range.isEmpty)
                position = extent.range.end
                guard extent.isZero else { continue }
                let part = content[Int(extent.range.offset)..<Int(extent.range.end)]
                #expect(part.allSatisfy { $0 == 0 }, "\(extent) is not zero")
            }
            #expect(position == range.end)
            let one = try await device.extents(in: range, limit: 1)
            #expect(one.count == 1 && range.contains(one[0].range))
        }
        try await device.close()
    }

    /// The *now* face does the whole request or nothing.
    package func refusesNowWithoutSideEffect() async throws {
        let device = try await fixture.make()
        var model = fixture.content
        for (index, (offset, count)) in edges(of: device).enumerated() {
            let slice = BufferSlice.holding([UInt8](repeating: UInt8(0x80 + index), count: count))
            if try device.tryWrite(at: UInt64(offset), from: slice.readOnlyBytes) {
                model.replaceSubrange(offset..<offset + count, with: slice.array)
            }
            #expect(
                try await device.bytes(at: 0, length) == model, "write of \(count) at \(offset)")
            let target = BufferSlice.holding([UInt8](repeating: 0xFF, count: count))
            let doneBytes =
                switch try device.tryRead(at: UInt64(offset), into: target.bytes) {
                case .done: count
                case .begun(let doneBytes): doneBytes
                case .refused: 0
                }
            let expected = model[offset..<offset + doneBytes]
            #expect(target.slice(0, doneBytes).array == Array(expected))
        }
        try await device.close()
    }

    /// Writers of neighbouring bytes, in the same units, do not lose each other's.
    package func servesConcurrentWriters() async throws {
        let device = try await fixture.make()
        let writers = 8
        let pieceBytes = max(1, min(length / writers / 8, 3000))
        var model = fixture.content
        for piece in 0..<writers * 8 {
            let offset = piece * pieceBytes
            model.replaceSubrange(
                offset..<offset + pieceBytes,
                with: [UInt8](repeating: UInt8(piece + 1), count: pieceBytes))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for writer in 0..<writers {
                group.addTask {
                    for piece in stride(from: writer, to: writers * 8, by: writers) {
                        let bytes = [UInt8](repeating: UInt8(piece + 1), count: pieceBytes)
                        try await device.put(bytes, at: piece * pieceBytes)
                        if piece % 5 == 0 { try await device.flush() }
                    }
                }
            }
            try await group.waitForAll()
        }
        try await expectContent(of: device, model, "after concurrent writes")
        try await expectPersistence(of: device, model)
    }

    /// Random operations, compared with an array of bytes.
    package func followsTheModel(steps: Int) async throws {
        var random = Seed.generator("model \(fixture.testDescription)")
        var device = try await fixture.make()
        var model = fixture.content
        for step in 0..<steps {
            let offset = Int.random(in: 0..<length, using: &random)
            let limit = Bool.random(using: &random) ? length : min(length, 5000)
            let count = min(Int.random(in: 1...limit, using: &random), length - offset)
            let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
            switch Int.random(in: 0..<10, using: &random) {
            case 0...3:
                let bytes = random.bytes(count)
                try await device.put(bytes, at: offset, now: Bool.random(using: &random))
                model.replaceSubrange(offset..<offset + count, with: bytes)
            case 4, 5:
                try await device.writeZeroes(range, mayUnmap: Bool.random(using: &random))
                model.replaceSubrange(
                    offset..<offset + count, with: [UInt8](repeating: 0, count: count))
            case 6:
                try await device.discard(range)
                let now = try await device.bytes(at: 0, length)
                model = zeroing(model, offset..<offset + count, where: now)
                try #require(now.firstDifference(from: model) == nil, "discard in step \(step)")
            case 7:
                try await device.flush()
            case 8 where step % 7 == 0:
                guard let reopen = fixture.reopen else { continue }
                try await device.close()
                device = try await reopen()
            default:
                let read = try await device.bytes(at: offset, count)
                let expected = Array(model[offset..<offset + count])
                try #require(read.firstDifference(from: expected) == nil, "read in step \(step)")
            }
        }
        try await expectContent(of: device, model, "after random operations")
        try await expectPersistence(of: device, model)
    }

    /// Offsets and lengths around units, the start and the end.
    private func edges(of device: any BlockDevice) -> [(Int, Int)] {
        let unit = Int(min(device.allocationUnitBytes, UInt64(length / 3)))
        return [
            (0, 1), (length - 1, 1), (unit - 1, 2), (unit, unit), (unit + 3, 5),
            (unit / 2, unit), (2 * unit - 7, min(unit + 11, length - 2 * unit + 7)),
            (length - unit / 2 - 1, unit / 2 + 1), (0, unit),
        ].filter { $0.0 >= 0 && $0.1 > 0 && $0.0 + $0.1 <= length }
    }

    private func expectContent(
        of device: any BlockDevice, _ model: [UInt8], _ moment: String
    ) async throws {
        let content = try await device.bytes(at: 0, length)
        #expect(
            content.firstDifference(from: model) == nil,
            "\(fixture.testDescription): first difference \(moment)")
    }

    /// `model` with zeroes instead of what differs in `range` and is zero in `now`.
    private func zeroing(_ model: [UInt8], _ range: Range<Int>, where now: [UInt8]) -> [UInt8] {
        guard now.firstDifference(from: model) != nil else { return model }
        var result = model
        result.withUnsafeMutableBytes { result in
            now.withUnsafeBytes { now in
                var index = range.lowerBound
                while index < range.upperBound {
                    let end = min(index + 512, range.upperBound)
                    let piece = UnsafeRawBufferPointer(rebasing: now[index..<end])
                    if piece.isAllZero {
                        memset(result.baseAddress! + index, 0, end - index)
                    } else {
                        for place in index..<end where now[place] == 0 { result[place] = 0 }
                    }
                    index = end
                }
            }
        }
        return result
    }

    /// Closes the device and, where it can be opened again, compares what it then holds.
    private func expectPersistence(of device: any BlockDevice, _ model: [UInt8]) async throws {
        try await device.close()
        guard let reopen = fixture.reopen else { return }
        let again = try await reopen()
        try await expectContent(of: again, model, "after opening again")
        try await again.close()
    }

    private func expectOutOfRange(_ body: () async throws -> Void) async {
        do {
            try await body()
            Issue.record("\(fixture.testDescription): not refused")
        } catch {
            #expect((error as? BlockError)?.kind == .outOfRange)
        }
    }
}

import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Each operation on the image's file fails in turn; the image goes on, or is opened again.
@Suite struct Qcow2FileFaultTests {
    private static let lengthBytes = 400_000

    @Test(arguments: [RecordingFile.Kind.read, .write, .durableWrite, .zero, .truncate, .flush])
    func anyFailureLeavesLeaksAtWorst(kind: RecordingFile.Kind) async throws {
        let directory = try TemporaryDirectory()
        let image = directory.path("image.qcow2")
        let below = directory.path("below.raw")
        try writeFile(below, [UInt8](repeating: 6, count: Self.lengthBytes))
        let backing = MemoryDevice(try readFile(below), name: below, readOnly: true)
        try Qcow2Device.create(
            path: image, lengthBytes: UInt64(Self.lengthBytes), clusterBytes: 512,
            backing: Qcow2Backing(name: below, format: "raw"))
        let start = try readFile(image)
        var number = 1
        while true {
            let file = try RecordingFile(MemoryFile(start, path: image))
            // The image opens with reads, which are counted as well.
            let device = try Qcow2Device.open(file: file, readOnly: false, backing: backing)
            file.fail(kind, number: number)
            let (model, failures) = await work(on: device)
            let happened = failures > 0
            file.heal()
            // After a failed flush nothing can be said of the file but by a new opening.
            var last = device
            if kind == .flush {
                last = try Qcow2Device.open(file: file.base, readOnly: false, backing: backing)
            }
            let found = try await last.bytes(at: 0, Self.lengthBytes)
            for (index, allowed) in model.enumerated() where !allowed.contains(found[index * 512]) {
                Issue.record("\(kind) \(number): piece \(index) is \(found[index * 512])")
            }
            try await last.put([9], at: 77)
            try await last.close()
            try writeFile(image, try content(of: file.base))
            let check = try Tool.run(["qemu-img", "check", image])
            #expect(
                (check.status == 0 || check.status == 3) && !check.output.contains("ERROR"),
                "\(kind) \(number): \(check.output)")
            // Refills run ahead and swallow their errors: a few numbers pass without a failure.
            if !happened && number > file.count(kind) { break }
            number += max(1, number / 4)
        }
        #expect(number > 1)
    }

    /// A durable write that fails may be in the file all the same: it is in the page cache, and only
    /// the medium refused it. The smaller image gets refcount blocks, the larger one a new table.
    @Test(arguments: [400_000, 20_000_000], [false, true])
    func aRefcountChangeThatFailsAfterItsEffectLeavesLeaksAtWorst(
        lengthBytes: UInt64, isLasting: Bool
    ) async throws {
        let directory = try TemporaryDirectory()
        let image = directory.path("image.qcow2")
        try Qcow2Device.create(path: image, lengthBytes: lengthBytes, clusterBytes: 512)
        let start = try readFile(image)
        let whole = try RecordingFile(MemoryFile(start, path: image))
        let device = try Qcow2Device.open(file: whole, readOnly: false, backing: nil)
        try await device.put([7], at: 0)
        // Growing the file ends with the writes that make the new refcounts count.
        let count = whole.count(.durableWrite)
        try await device.close()
        #expect(count > 4)
        for number in count - 4...count {
            for goesOn in [false, true] {
                let file = try RecordingFile(MemoryFile(start, path: image))
                let device = try Qcow2Device.open(file: file, readOnly: false, backing: nil)
                file.fail(.durableWrite, number: number, lasting: isLasting, afterEffect: true)
                await #expect(throws: BlockError.self) { try await device.put([7], at: 0) }
                file.heal()
                // It may refuse to go on, but not forget what it took.
                var isTaken = false
                if goesOn { isTaken = (try? await device.put([8], at: 70_000)) != nil }
                #expect(isTaken || !goesOn || isLasting)
                try await device.close()
                let last = try Qcow2Device.open(file: file.base, readOnly: false, backing: nil)
                #expect(try await last.bytes(at: 70_000, 1) == [isTaken ? 8 : 0], "\(number)")
                try await last.put([9], at: 140_000)
                try await last.close()
                try writeFile(image, try content(of: file.base))
                let check = try Tool.run(["qemu-img", "check", image])
                #expect(
                    (check.status == 0 || check.status == 3) && !check.output.contains("ERROR"),
                    "\(number): \(check.output)")
            }
        }
    }

    /// The same for the writes by which a resize moves the L1 table and changes the size.
    @Test(arguments: [100_000, 40_000_000])
    func aResizeThatFailsAfterItsEffectForgetsNothing(lengthBytes: UInt64) async throws {
        let directory = try TemporaryDirectory()
        let image = directory.path("image.qcow2")
        try Qcow2Device.create(
            path: image, lengthBytes: UInt64(Self.lengthBytes), clusterBytes: 512)
        let start = try readFile(image)
        var number = 1
        while true {
            let file = try RecordingFile(MemoryFile(start, path: image))
            let device = try Qcow2Device.open(file: file, readOnly: false, backing: nil)
            file.fail(.durableWrite, number: number, lasting: true, afterEffect: true)
            _ = try? await device.resize(to: lengthBytes)
            file.heal()
            let place = Self.lengthBytes - 1
            let isTaken = (try? await device.put([8], at: place)) != nil
            try await device.close()
            let last = try Qcow2Device.open(file: file.base, readOnly: false, backing: nil)
            if isTaken {
                #expect(last.lengthBytes > place, "\(number)")
                if last.lengthBytes > place {
                    #expect(try await last.bytes(at: place, 1) == [8], "\(number)")
                }
            }
            try await last.close()
            try writeFile(image, try content(of: file.base))
            let check = try Tool.run(["qemu-img", "check", image])
            #expect(
                (check.status == 0 || check.status == 3) && !check.output.contains("ERROR"),
                "\(number): \(check.output)")
            if number > file.count(.durableWrite) { break }
            number += max(1, number / 4)
        }
        #expect(number > 1)
    }

    /// Writes, zeroes and discards with errors ignored; returns what each piece of 512 bytes may
    /// begin with, and how many operations failed.
    private func work(on device: Qcow2Device) async -> (model: [Set<UInt8>], failures: Int) {
        var random = SplitMix64(seed: 5)
        let pieces = (Self.lengthBytes + 511) / 512
        var model = [Set<UInt8>](repeating: [6], count: pieces)
        var failures = 0
        for step in 0..<40 {
            let first = Int.random(in: 0..<pieces - 1, using: &random)
            let count = min(Int.random(in: 1...60, using: &random), pieces - 1 - first)
            let value: UInt8 = step % 5 == 3 ? 0 : UInt8(10 + step)
            var failed = false
            do throws(BlockError) {
                if step % 5 == 3 {
                    try await device.writeZeroes(
                        ByteRange(
                            offset: UInt64(first * 512), lengthBytes: UInt64(count * 512)),
                        mayUnmap: true)
                } else {
                    try await device.put(
                        [UInt8](repeating: value, count: count * 512), at: first * 512)
                }
            } catch {
                failed = true
            }
            for piece in first..<first + count {
                if failed { model[piece].insert(value) } else { model[piece] = [value] }
            }
            do throws(BlockError) {
                if step % 8 == 7 { try await device.flush() }
            } catch {
                failed = true
            }
            failures += failed ? 1 : 0
        }
        return (model, failures)
    }

    private func content(of file: any StorageFile) throws -> [UInt8] {
        try #require(file as? MemoryFile).content
    }
}

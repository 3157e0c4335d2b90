import BlockCore
import DriverRaw
import Foundation
import TestSupport
import Testing

@testable import DriverQcow2

/// Images that qemu-img and qemu-io made, read and written here; and the other way round.
@Suite struct Qcow2InteropTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test(
        arguments: ["deflate-4096", "deflate-65536", "deflate-2097152", "zstd-4096", "zstd-65536"])
    func compressedImagesReadTheSameAndTakeWrites(kind: String) async throws {
        let parts = kind.split(separator: "-")
        let type = parts[0] == "deflate" ? "zlib" : "zstd"
        var random = Seed.generator(kind)
        var model = [UInt8](repeating: 0, count: 5 << 20)
        for start in stride(from: 0, to: model.count, by: 10_000) where start % 30_000 != 0 {
            // Half random, half constant: it compresses, but not to nothing.
            let bytes = random.bytes(3000) + [UInt8](repeating: 7, count: 4000)
            model.replaceSubrange(start..<min(start + 7000, model.count), with: bytes)
        }
        model = Array(model[..<(5 << 20)])
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        let image = directory.path("image.qcow2")
        try Tool.check([
            "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
            "cluster_size=\(parts[1]),compression_type=\(type)", raw, image,
        ])
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await expectContent(device, model)
        for _ in 0..<60 {
            let offset = Int.random(in: 0..<model.count - 9000, using: &random)
            let bytes = random.bytes(Int.random(in: 1...9000, using: &random))
            try await device.put(bytes, at: offset, now: true)
            model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        try await device.writeZeroes(
            ByteRange(offset: 1 << 20, lengthBytes: 777_777), mayUnmap: true)
        model.replaceSubrange(
            1 << 20..<(1 << 20) + 777_777, with: [UInt8](repeating: 0, count: 777_777))
        try await device.flush()
        try await expectContent(device, model)
        try await device.close()
        try writeFile(raw, model)
        try expectSame(image, raw)
    }

    @Test(arguments: ["2", "3"], ["512", "65536", "2097152"])
    func imagesOfQemuReadTheSame(version: String, clusterBytes: String) async throws {
        let image = directory.path("image.qcow2")
        let compat = version == "2" ? "0.10" : "1.1"
        try Tool.check([
            "qemu-img", "create", "-f", "qcow2", "-o",
            "compat=\(compat),cluster_size=\(clusterBytes)", image, "5000192",
        ])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -P 1 0 70000", "-c", "write -P 2 1m 1m",
            "-c", "write -z 1100000 300000", "-c", "write -z -u 600000 100000",
            "-c", "discard 1500000 200000", "-c", "write -P 3 4990000 10192", image,
        ])
        let raw = directory.path("model.raw")
        try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw])
        let reader = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        #expect(reader.header.version == UInt32(version))
        try await expectContent(reader, try readFile(raw))
        try await reader.close()

        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        let model = try await changeAtRandom(device, seed: "\(version) \(clusterBytes)")
        try await device.close()
        try writeFile(raw, model)
        try expectSame(image, raw)
    }

    @Test(arguments: [false, true])
    func chainsOfQemuReadTheSame(topIsVersion2: Bool) async throws {
        // The middle image is the shortest, so the base must not show through beyond its end.
        try Tool.check(["qemu-img", "create", "-f", "raw", directory.path("base.raw"), "3m"])
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 9 0 3m", directory.path("base.raw"),
        ])
        try Tool.check([
            "qemu-img", "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o",
            "cluster_size=4096", directory.path("middle.qcow2"), "1300k",
        ])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -P 5 100k 200k", "-c", "write -z 400k 64k",
            directory.path("middle.qcow2"),
        ])
        try Tool.check([
            "qemu-img", "create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "-o",
            "compat=\(topIsVersion2 ? "0.10" : "1.1")", directory.path("top.qcow2"), "2500k",
        ])
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -P 3 150k 10k", directory.path("top.qcow2"),
        ])
        let raw = directory.path("model.raw")
        let top = directory.path("top.qcow2")
        try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, raw])
        let header = try Qcow2Device.readHeader(path: top)
        #expect(header.backing == Qcow2Backing(name: "middle.qcow2", format: "qcow2"))
        let device = try openChain()
        try await expectContent(device, try readFile(raw))
        let depths = try await device.allExtents(
            in: ByteRange(offset: 0, lengthBytes: device.lengthBytes))
        #expect(Set(depths.map(\.depth)) == [0, 1, 2])

        let model = try await changeAtRandom(device, seed: "chain \(topIsVersion2)")
        try await device.close()
        try writeFile(raw, model)
        try expectSame(top, raw)
    }

    @Test func imagesWithSnapshotsKeepThem() async throws {
        let image = directory.path("image.qcow2")
        try Tool.check(["qemu-img", "create", "-f", "qcow2", image, "3m"])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 2m", image])
        try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        let model = try await changeAtRandom(device, seed: "snapshots")
        try await device.close()
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try expectSame(image, raw)
        let old = directory.path("old.raw")
        try Tool.check([
            "qemu-img", "convert", "-l", "snapshot.name=before", "-f", "qcow2", "-O", "raw", image,
            old,
        ])
        let kept = try readFile(old)
        #expect(kept[..<(2 << 20)].allSatisfy { $0 == 1 })
        #expect(kept[(2 << 20)...].allSatisfy { $0 == 0 })
    }

    @Test(arguments: ["1", "2", "8", "16", "64"])
    func refcountsOfAnyWidthAreKept(bits: String) async throws {
        let image = directory.path("image.qcow2")
        try Tool.check([
            "qemu-img", "create", "-f", "qcow2", "-o", "refcount_bits=\(bits),cluster_size=512",
            image, "3m",
        ])
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        let model = try await changeAtRandom(device, seed: "refcounts \(bits)")
        try await device.close()
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try expectSame(image, raw)
    }

    @Test func theRefcountTableGrows() async throws {
        // A table of one 512-byte cluster counts 64 × 256 clusters: 8 MiB.
        let image = directory.path("image.qcow2")
        let lengthBytes = 40 << 20
        try Qcow2Device.create(path: image, lengthBytes: UInt64(lengthBytes), clusterBytes: 512)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        var random = Seed.generator("growth")
        let model = random.bytes(lengthBytes)
        for offset in stride(from: 0, to: lengthBytes, by: 1 << 20) {
            try await device.put(Array(model[offset..<offset + 1 << 20]), at: offset)
        }
        try await device.close()
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try expectSame(image, raw)
    }

    @Test func anImageThatIsDroppedHasLeaksAtWorstAndAllWrites() async throws {
        let image = directory.path("image.qcow2")
        try Qcow2Device.create(path: image, lengthBytes: 8 << 20, clusterBytes: 4096)
        var model: [UInt8] = []
        do {
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            model = try await changeAtRandom(device, seed: "dropped")
        }
        let check = try Tool.run(["qemu-img", "check", image])
        #expect(check.status == 3 && !check.output.contains("ERROR"), "\(check)")
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw])
        let again = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await expectContent(again, model)
        model = try await changeAtRandom(again, seed: "dropped, again")
        try await again.close()
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "check", "-r", "leaks", image])
        try expectSame(image, raw)
    }

    @Test func bitmapsOfQemuAreMarkedAsStaleBeforeTheFirstWrite() async throws {
        let image = directory.path("image.qcow2")
        try Tool.check(["qemu-img", "create", "-f", "qcow2", image, "3m"])
        try Tool.check(["qemu-img", "bitmap", "--add", image, "b0"])
        try Tool.check(["qemu-img", "bitmap", "--add", image, "the second one"])
        func marks() throws -> Int {
            try Tool.check(["qemu-img", "info", image]).components(separatedBy: "in-use").count - 1
        }
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.flush()
        #expect(try marks() == 0)
        let piece = [UInt8](repeating: 1, count: 4096)
        #expect(try !device.tryWrite(at: 0, from: BufferSlice.holding(piece).readOnlyBytes))
        try await device.put(piece, at: 0)
        #expect(try marks() == 2)
        try await device.close()
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "bitmap", "--remove", image, "b0"])
        try Tool.check(["qemu-img", "check", image])
    }

    @Test func bitmapsInABrokenListAreDisowned() async throws {
        let image = directory.path("image.qcow2")
        try Tool.check(["qemu-img", "create", "-f", "qcow2", image, "3m"])
        try Tool.check(["qemu-img", "bitmap", "--add", image, "b0"])
        let place = try #require(try Qcow2Header(path: image).bitmaps)
        var bytes = try readFile(image)
        // The name of the bitmap reaches beyond the list.
        bytes[Int(place.offset) + 18] = 0xFF
        try writeFile(image, bytes)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put([1], at: 0)
        #expect(try Qcow2Device.readHeader(path: image).autoclear == 0)
        try await device.close()
    }

    /// Random writes, zeroes, discards and flushes; returns what the device then holds, which is
    /// known from a model in memory.
    private func changeAtRandom(_ device: Qcow2Device, seed: String) async throws -> [UInt8] {
        var random = Seed.generator(seed)
        let length = Int(device.lengthBytes)
        var model = try await device.bytes(at: 0, length)
        for step in 0..<120 {
            let offset = Int.random(in: 0..<length, using: &random)
            let most = step % 10 == 0 ? 1 << 20 : 40_000
            let count = min(Int.random(in: 1...most, using: &random), length - offset)
            let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
            switch Int.random(in: 0..<8, using: &random) {
            case 0:
                try await device.writeZeroes(range, mayUnmap: Bool.random(using: &random))
                model.replaceSubrange(
                    offset..<offset + count, with: [UInt8](repeating: 0, count: count))
            case 1:
                try await device.discard(range)
                let now = try await device.bytes(at: offset, count)
                model.replaceSubrange(offset..<offset + count, with: now)
            case 2: try await device.flush()
            default:
                let bytes = random.bytes(count)
                try await device.put(bytes, at: offset, now: true)
                model.replaceSubrange(offset..<offset + count, with: bytes)
            }
        }
        try await expectContent(device, model)
        return model
    }

    private func openChain() throws -> Qcow2Device {
        let base = try RawDevice.open(path: directory.path("base.raw"), readOnly: true)
        let middle = try Qcow2Device.open(
            path: directory.path("middle.qcow2"), readOnly: true, backing: base)
        return try Qcow2Device.open(
            path: directory.path("top.qcow2"), readOnly: false, backing: middle)
    }

    private func expectContent(_ device: any BlockDevice, _ model: [UInt8]) async throws {
        try #require(device.lengthBytes == UInt64(model.count))
        let content = try await device.bytes(at: 0, model.count)
        #expect(content.firstDifference(from: model) == nil)
    }

    private func expectSame(_ image: String, _ raw: String) throws {
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw])
    }
}

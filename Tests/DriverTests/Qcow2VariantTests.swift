import BlockCore
import DriverRaw
import Glibc
import TestSupport
import Testing

@testable import DriverQcow2

/// One point in the grid of what an image can be like.
struct ImageVariant: Sendable, CustomTestStringConvertible {
    var options = Qcow2Options()
    var isOfQemu = false
    var hasBacking = false
    var hasSnapshot = false
    var isCompressed = false

    var testDescription: String {
        var words = ["v\(options.version)", "\(options.clusterBytes)", "r\(options.refcountBits)"]
        if options.hasSubclusters { words.append("subclusters") }
        if options.compression == .zstd { words.append("zstd") }
        if options.dataFileName != nil { words.append(options.isDataFileRaw ? "raw-data" : "data") }
        if isOfQemu { words.append("by-qemu") }
        if hasBacking { words.append("backing") }
        if hasSnapshot { words.append("snapshot") }
        if isCompressed { words.append("compressed") }
        return words.joined(separator: " ")
    }

    /// A random one that the format allows.
    init(using random: inout SplitMix64) {
        // Few with large clusters, which take long.
        let isLarge = Int.random(in: 0..<6, using: &random) == 0
        options.clusterBytes = 1 << UInt64.random(in: isLarge ? 17...21 : 9...16, using: &random)
        isOfQemu = Bool.random(using: &random)
        hasBacking = Bool.random(using: &random)
        options.version = Int.random(in: 0..<6, using: &random) == 0 ? 2 : 3
        if options.version == 3 {
            options.refcountBits = 1 << Int.random(in: 0...6, using: &random)
            options.hasSubclusters =
                options.clusterBytes >= 16384 && Int.random(in: 0..<3, using: &random) > 0
            if Bool.random(using: &random) { options.compression = .zstd }
            if Int.random(in: 0..<4, using: &random) == 0 {
                // QEMU looks for a relative name in its working folder: the run makes it absolute.
                options.dataFileName = "image.data"
                options.isDataFileRaw = !hasBacking && Bool.random(using: &random)
            }
        }
        isCompressed = options.dataFileName == nil && Int.random(in: 0..<3, using: &random) == 0
        hasSnapshot =
            options.dataFileName == nil && options.refcountBits > 1
            && Int.random(in: 0..<3, using: &random) == 0
    }

    /// The options of `qemu-img create` for this.
    var qemuOptions: String {
        var words = [
            "compat=\(options.version == 2 ? "0.10" : "1.1")",
            "cluster_size=\(options.clusterBytes)",
        ]
        if options.version == 3 {
            words.append("refcount_bits=\(options.refcountBits)")
            words.append("compression_type=\(options.compression == .zstd ? "zstd" : "zlib")")
            if options.hasSubclusters { words.append("extended_l2=on") }
            if let name = options.dataFileName {
                words.append("data_file=\(name)")
                if options.isDataFileRaw { words.append("data_file_raw=on") }
            }
        }
        return words.joined(separator: ",")
    }
}

/// Random operations on all kinds of images, compared with an array of bytes, with qemu-img as the
/// judge of what is left. TIDEMARK_IMAGES says how many images; 1000 is the full number.
@Suite struct Qcow2VariantTests {
    private static let images =
        getenv("TIDEMARK_IMAGES").flatMap { Int(String(cString: $0)) } ?? 50

    @Test func allKindsOfImagesFollowTheModel() async throws {
        for number in 0..<Self.images {
            var random = Seed.generator("image \(number)")
            let variant = ImageVariant(using: &random)
            do {
                let run = try VariantRun(variant, using: &random)
                try await run.work(using: &random)
            } catch {
                Issue.record("image \(number) (\(variant.testDescription)): \(error)")
            }
        }
    }
}

/// An image, what it should hold, and the operations on it.
private final class VariantRun {
    private var variant: ImageVariant
    private let directory: TemporaryDirectory
    private let image: String
    private let backing: RawDevice?
    private var model: [UInt8]
    private var snapshot: [UInt8] = []
    private var device: Qcow2Device

    init(_ variant: ImageVariant, using random: inout SplitMix64) throws {
        self.variant = variant
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
        self.variant.options.dataFileName = variant.options.dataFileName.map(directory.path)
        let variant = self.variant
        // A few clusters, or a megabyte, and of no round length.
        let most = min(Int(variant.options.clusterBytes) * 40, 1 << 20)
        let least = Int(variant.options.clusterBytes) * 5 / 2 + 512
        let sectors = Int.random(in: least...max(least + 1, most), using: &random) / 512
        model = [UInt8](repeating: 0, count: sectors * 512)
        var reference: Qcow2Backing?
        if variant.hasBacking {
            let name = directory.path("below.raw")
            let count = Int.random(in: 1...model.count * 3 / 2, using: &random) / 512 * 512 + 512
            var below = random.bytes(count)
            for start in stride(from: 0, to: count, by: 40_000) where start % 3 != 0 {
                let end = min(start + 20_000, count)
                below.replaceSubrange(start..<end, with: [UInt8](repeating: 0, count: end - start))
            }
            try writeFile(name, below)
            reference = Qcow2Backing(name: "below.raw", format: "raw")
            backing = try RawDevice.open(path: name, readOnly: true)
            let shown = min(count, model.count)
            model.replaceSubrange(0..<shown, with: below[..<shown])
        } else {
            backing = nil
        }
        if variant.isOfQemu {
            let below =
                variant.hasBacking ? ["-b", directory.path("below.raw"), "-F", "raw"] : []
            try Tool.check(
                ["qemu-img", "create", "-q", "-f", "qcow2"] + below
                    + ["-o", variant.qemuOptions, image, "\(model.count)"])
        } else {
            try Qcow2Device.create(
                path: image, lengthBytes: UInt64(model.count), options: variant.options,
                backing: reference)
        }
        if variant.hasSnapshot {
            try Tool.check([
                "qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 \(model.count / 1024 * 512)",
                image,
            ])
            model.replaceSubrange(
                0..<model.count / 1024 * 512,
                with: [UInt8](repeating: 7, count: model.count / 1024 * 512))
            try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
            snapshot = model
        }
        device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
    }

    func work(using random: inout SplitMix64) async throws {
        for step in 0..<60 {
            let clusterBytes = Int(variant.options.clusterBytes)
            let offset = Int.random(in: 0..<model.count, using: &random)
            let most = step % 6 == 0 ? 4 * clusterBytes + 5000 : 5000
            let count = min(Int.random(in: 1...most, using: &random), model.count - offset)
            let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
            switch Int.random(in: 0..<20, using: &random) {
            case 0...6:
                let bytes = random.bytes(count)
                try await device.put(bytes, at: offset, now: Bool.random(using: &random))
                model.replaceSubrange(offset..<offset + count, with: bytes)
            case 7...9:
                try await device.writeZeroes(range, mayUnmap: Bool.random(using: &random))
                model.replaceSubrange(
                    offset..<offset + count, with: [UInt8](repeating: 0, count: count))
            case 10, 11: try await discard(range)
            case 12: try await device.flush()
            case 13 where variant.isCompressed, 14 where variant.isCompressed:
                try await compress(from: offset / clusterBytes * clusterBytes, using: &random)
            case 15 where step % 3 == 0 && (variant.options.version > 2 || !variant.hasSnapshot):
                try await resize(using: &random)
            case 16 where step % 3 == 0:
                try await device.close()
                try expectSound()
                device = try Qcow2Device.open(path: image, readOnly: false, backing: backing)
            default:
                let bytes = try await device.bytes(at: offset, count)
                try expect(bytes, Array(model[offset..<offset + count]), "read in step \(step)")
            }
        }
        try expect(try await device.bytes(at: 0, model.count), model, "at the end")
        try await device.close()
        try expectSound()
        let again = try Qcow2Device.open(path: image, readOnly: true, backing: backing)
        try expect(try await again.bytes(at: 0, model.count), model, "after opening again")
        try expectSnapshot()
    }

    private func discard(_ range: ByteRange) async throws {
        try await device.discard(range)
        let now = try await device.bytes(at: Int(range.offset), Int(range.lengthBytes))
        var done = 0
        while done < now.count {
            // Each piece is as it was or all zeroes.
            let end = min(done + 512 - (Int(range.offset) + done) % 512, now.count)
            let isZero = now.withUnsafeBytes {
                UnsafeRawBufferPointer(rebasing: $0[done..<end]).isAllZero
            }
            if isZero {
                let place = Int(range.offset) + done
                model.replaceSubrange(
                    place..<place + end - done, with: [UInt8](repeating: 0, count: end - done))
            }
            done = end
        }
        try expect(now, Array(model[Int(range.offset)..<Int(range.end)]), "a discard of \(range)")
    }

    private func compress(from start: Int, using random: inout SplitMix64) async throws {
        let clusterBytes = Int(variant.options.clusterBytes)
        let end = min(start + Int.random(in: 1...6, using: &random) * clusterBytes, model.count)
        var bytes: [UInt8] = []
        while bytes.count < end - start {
            // Some clusters compress and some do not.
            bytes += random.bytes(Int.random(in: 1...clusterBytes, using: &random))
            bytes += [UInt8](repeating: 3, count: Int.random(in: 1...clusterBytes, using: &random))
        }
        bytes = Array(bytes[..<(end - start)])
        try await device.writeCompressed(at: UInt64(start), from: .holding(bytes))
        model.replaceSubrange(start..<end, with: bytes)
    }

    private func resize(using random: inout SplitMix64) async throws {
        let sectors = Int.random(in: max(1, model.count / 1024)...model.count / 256, using: &random)
        let size = min(sectors, 4096 + 2 * Int(variant.options.clusterBytes) / 512) * 512
        try await device.resize(to: UInt64(size))
        model = Array(model.prefix(size))
        model += [UInt8](repeating: 0, count: size - model.count)
        try expect(try await device.bytes(at: 0, model.count), model, "a resize to \(size)")
    }

    /// Has qemu-img check the image and compare it with the model.
    private func expectSound() throws {
        let raw = directory.path("model.raw")
        try writeFile(raw, model)
        try Tool.check(["qemu-img", "check", image])
        try Tool.check(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw])
        if variant.options.isDataFileRaw {
            try expect(
                Array(try readFile(directory.path("image.data")).prefix(model.count)), model,
                "the raw data file")
        }
    }

    private func expectSnapshot() throws {
        guard variant.hasSnapshot else { return }
        let old = directory.path("old.raw")
        try Tool.check([
            "qemu-img", "convert", "-l", "snapshot.name=before", "-f", "qcow2", "-O", "raw", image,
            old,
        ])
        let bytes = try readFile(old)
        let count = min(bytes.count, snapshot.count)
        try expect(Array(bytes[..<count]), Array(snapshot[..<count]), "the snapshot")
    }

    private func expect(_ found: [UInt8], _ expected: [UInt8], _ moment: String) throws {
        guard found.count == expected.count else {
            throw Tool.Failure(
                description: "\(moment): \(found.count) bytes, not \(expected.count)")
        }
        if let place = found.firstDifference(from: expected) {
            throw Tool.Failure(
                description: "\(moment): byte \(place) of \(found.count) is \(found[place]), "
                    + "not \(expected[place])")
        }
    }
}

import BlockCore
import Glibc
import TestSupport
import Testing

@testable import DriverQcow2

// The crash rule: whenever the power goes, the image has leaks at worst and holds what was flushed;
// whenever the process ends, it holds all that was acknowledged.
//
// A random workload is recorded as what its file is told. Crashes are replayed from the record:
// after a prefix of it, with everything (the process was killed) or without a random part of what
// was not durable (a power loss). TIDEMARK_CRASHES says how many of each; 1000 is the full number.

/// An image on which a workload is recorded.
struct CrashVariant: Sendable, CustomTestStringConvertible {
    let testDescription: String
    var clusterBytes = 4096
    var hasBacking = false
    var hasSnapshot = false
    var isCompressed = false
    var options: [String] = []
}

@Suite struct Qcow2CrashTests {
    private static let sectors = 1536
    private static let crashes =
        getenv("TIDEMARK_CRASHES").flatMap { Int(String(cString: $0)) } ?? 60

    static let variants = [
        CrashVariant(testDescription: "alone"),
        CrashVariant(testDescription: "over a backing file", hasBacking: true),
        CrashVariant(
            testDescription: "small clusters over a backing file", clusterBytes: 512,
            hasBacking: true),
        CrashVariant(
            testDescription: "with a snapshot, over a backing file", hasBacking: true,
            hasSnapshot: true),
        CrashVariant(
            testDescription: "refcounts of 64 bits, with a snapshot", hasSnapshot: true,
            options: ["refcount_bits=64"]),
        CrashVariant(
            testDescription: "subclusters over a backing file", clusterBytes: 16384,
            hasBacking: true, options: ["extended_l2=on"]),
        CrashVariant(
            testDescription: "subclusters with a snapshot", clusterBytes: 65536,
            hasSnapshot: true, options: ["extended_l2=on"]),
        CrashVariant(
            testDescription: "compressed, over a backing file", hasBacking: true,
            isCompressed: true, options: ["compression_type=zstd"]),
    ]

    @Test(arguments: variants)
    func anyCrashLeavesLeaksAtWorstAndWhatWasFlushed(variant: CrashVariant) async throws {
        let directory = try TemporaryDirectory()
        let disk = try RecordedDisk(variant, sectors: Self.sectors, in: directory)
        var random = Seed.generator("crashes \(variant.testDescription)")
        try await disk.work(steps: 90, using: &random)
        let operations = disk.file.operations

        let step = max(1, operations.count / Self.crashes)
        for count in stride(from: 0, through: operations.count, by: step) {
            let file = MemoryFile(disk.file.start, path: disk.image)
            operations.replay(count, on: file, without: [], torn: [], using: &random)
            try await disk.expect(file, "killed after \(count) operations") {
                disk.history.complaintAfterKill($0, count: count)
            }
        }
        for _ in 0..<Self.crashes {
            let loss = PowerLoss(of: operations, using: &random)
            let file = loss.replay(operations, from: disk.file.start, using: &random)
            try await disk.expect(file, "\(loss)") {
                disk.history.complaintAfterPowerLoss($0, done: loss.done, begun: loss.count)
            }
        }
    }

    /// The same with durable writes taken for common ones, which must not pass.
    @Test func theReplayNoticesWhatTheOrderOfWritesPrevents() async throws {
        let directory = try TemporaryDirectory()
        let disk = try RecordedDisk(Self.variants[1], sectors: Self.sectors, in: directory)
        var random = Seed.generator("crashes without an order")
        try await disk.work(steps: 60, using: &random)
        let operations = disk.file.operations.map { operation in
            guard case .write(let offset, let bytes, _) = operation else { return operation }
            return RecordingFile.Operation.write(offset: offset, bytes: bytes, isDurable: false)
        }
        var complaints = 0
        for _ in 0..<2000 where complaints == 0 {
            let loss = PowerLoss(of: operations, using: &random)
            let file = loss.replay(operations, from: disk.file.start, using: &random)
            guard let found = try? await disk.numbers(in: file) else { continue }
            let complaint = disk.history.complaintAfterPowerLoss(
                found, done: loss.done, begun: loss.count)
            complaints += complaint == nil ? 0 : 1
        }
        #expect(complaints > 0)
    }
}

/// A power loss at some moment of a record: how much had begun, and what of it was lost.
private struct PowerLoss: CustomStringConvertible {
    let count: Int
    /// Whether the last operation was under way.
    let unfinished: Bool
    private var lost: Set<Int> = []
    private var torn: Set<Int> = []

    init(of operations: [RecordingFile.Operation], using random: inout SplitMix64) {
        count = Int.random(in: 1...operations.count, using: &random)
        unfinished = Bool.random(using: &random)
        let share = Int.random(in: 1...7, using: &random)
        for index in operations.volatileIndices(before: count, unfinished: unfinished) {
            switch Int.random(in: 0..<8, using: &random) {
            case 0: torn.insert(index)
            case 1...share: lost.insert(index)
            default: break
            }
        }
    }

    /// How many operations had finished.
    var done: Int { unfinished ? count - 1 : count }

    var description: String {
        "power lost at \(count)\(unfinished ? ", unfinished" : ""), without \(lost.sorted()), "
            + "in part \(torn.sorted())"
    }

    /// What a file with the content `start` holds after it.
    func replay(
        _ operations: [RecordingFile.Operation], from start: [UInt8],
        using random: inout SplitMix64
    ) -> MemoryFile {
        let file = MemoryFile(start)
        operations.replay(count, on: file, without: lost, torn: torn, using: &random)
        return file
    }
}

/// A disk whose file is recorded while it is worked on.
private final class RecordedDisk {
    let image: String
    let file: RecordingFile
    private(set) var history: SectorHistory
    private let backing: MemoryDevice?
    private let sectors: Int
    private let variant: CrashVariant
    private var number: UInt64 = 1

    init(_ variant: CrashVariant, sectors: Int, in directory: TemporaryDirectory) throws {
        self.sectors = sectors
        self.variant = variant
        image = directory.path("image.qcow2")
        var numbers = [UInt64](repeating: 0, count: sectors)
        var arguments = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if variant.hasBacking {
            // Shorter than the image, and with holes.
            let below = directory.path("below.raw")
            for sector in 0..<sectors * 3 / 4 where sector / 100 % 3 != 1 {
                numbers[sector] = UInt64(1 << 40 + sector)
            }
            let bytes = numbers[..<(sectors * 3 / 4)].flatMap {
                SectorHistory.content($0, sectors: 1)
            }
            try writeFile(below, bytes)
            backing = MemoryDevice(bytes, name: below, readOnly: true)
            arguments += ["-b", below, "-F", "raw"]
        } else {
            backing = nil
        }
        let options = ["cluster_size=\(variant.clusterBytes)"] + variant.options
        arguments += ["-o", options.joined(separator: ","), image, "\(sectors * 512)"]
        try Tool.check(arguments)
        if variant.hasSnapshot {
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 100k 200k", image])
            try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
            let pattern = UInt64(0x0101_0101_0101_0101)
            for sector in 200..<600 { numbers[sector] = pattern }
        }
        file = try RecordingFile(MemoryFile(try readFile(image), path: image))
        history = SectorHistory(numbers)
    }

    /// Does `steps` random things to the disk, and leaves it open.
    func work(steps: Int, using random: inout SplitMix64) async throws {
        let device = try Qcow2Device.open(file: file, readOnly: false, backing: backing)
        for _ in 0..<steps {
            let first = Int.random(in: 0..<sectors, using: &random)
            let most = Int.random(in: 0..<4, using: &random) == 0 ? 200 : 12
            let count = min(Int.random(in: 1...most, using: &random), sectors - first)
            let range = ByteRange(
                offset: UInt64(first * 512), lengthBytes: UInt64(count * 512))
            let begin = file.count
            switch Int.random(in: 0..<16, using: &random) {
            case 0...2 where variant.isCompressed:
                let clusterSectors = variant.clusterBytes / 512
                let start = first / clusterSectors * clusterSectors
                let count = min(
                    clusterSectors * Int.random(in: 1...9, using: &random), sectors - start)
                number += 1
                let content = SectorHistory.content(number, sectors: count)
                try await device.writeCompressed(
                    at: UInt64(start * 512), from: .holding(content))
                history.write(number, to: start..<start + count, begin: begin, end: file.count)
            case 0...8:
                number += 1
                try await device.put(
                    SectorHistory.content(number, sectors: count), at: first * 512,
                    now: Bool.random(using: &random))
                history.write(number, to: first..<first + count, begin: begin, end: file.count)
            case 9, 10:
                try await device.writeZeroes(range, mayUnmap: Bool.random(using: &random))
                history.write(0, to: first..<first + count, begin: begin, end: file.count)
            case 11, 12:
                try await device.discard(range)
                let end = file.count
                let now = try await device.bytes(at: first * 512, count * 512)
                for (index, found) in SectorHistory.numbers(in: now).enumerated() where found == 0 {
                    history.write(
                        0, to: first + index..<first + index + 1, begin: begin, end: end)
                }
            default:
                try await device.flush()
                history.flush(begin: begin, end: file.count)
            }
        }
        try await device.flush()
        try await device.close()
    }

    /// Judges an image that a crash left.
    func expect(
        _ file: MemoryFile, _ crash: String, _ complaint: ([UInt64?]) -> String?
    ) async throws {
        let found = complaint(try await numbers(in: file))
        #expect(found == nil, "\(crash): \(found ?? "")")
        try writeFile(image, file.content)
        let check = try Tool.run(["qemu-img", "check", image])
        #expect(
            (check.status == 0 || check.status == 3) && !check.output.contains("ERROR"),
            "\(crash): \(check.output)\(check.errors)")
    }

    /// What each sector of the image in `file` holds.
    func numbers(in file: MemoryFile) async throws -> [UInt64?] {
        let device = try Qcow2Device.open(file: file, readOnly: true, backing: backing)
        return SectorHistory.numbers(in: try await device.bytes(at: 0, sectors * 512))
    }
}

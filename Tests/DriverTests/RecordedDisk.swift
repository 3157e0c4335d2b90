import BlockCore
import Synchronization
import TestSupport
import Testing

@testable import DriverQcow2

/// An image on which a workload is recorded.
struct CrashVariant: Sendable, CustomTestStringConvertible {
    let testDescription: String
    var clusterBytes = 4096
    var hasBacking = false
    var hasSnapshot = false
    var isCompressed = false
    var hasDataFile = false
    var options: [String] = []

    /// Whether the external data file is to read like the image.
    var isDataFileRaw: Bool { options.contains("data_file_raw=on") }
}

/// A disk whose files are recorded while it is worked on.
final class RecordedDisk: Sendable {
    let image: String
    let history: Mutex<SectorHistory>
    /// The image, and the external data file if there is one.
    let files: [RecordingFile]
    private let clock = OperationClock()
    private let backing: MemoryDevice?
    private let sectors: Int
    private let variant: CrashVariant
    private let number = Atomic<UInt64>(1)

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
        var options = ["cluster_size=\(variant.clusterBytes)"] + variant.options
        if variant.hasDataFile { options.append("data_file=\(image).data") }
        arguments += ["-o", options.joined(separator: ","), image, "\(sectors * 512)"]
        try Tool.check(arguments)
        if variant.hasSnapshot {
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 100k 200k", image])
            try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
            let pattern = UInt64(0x0101_0101_0101_0101)
            for sector in 200..<600 { numbers[sector] = pattern }
        }
        let paths = variant.hasDataFile ? [image, image + ".data"] : [image]
        files = try paths.map { [clock] in
            try RecordingFile(MemoryFile(try readFile($0), path: $0), clock: clock)
        }
        history = Mutex(SectorHistory(numbers))
    }

    /// How many operations were recorded, on all files.
    var count: Int { clock.count }

    private func open() throws(BlockError) -> Qcow2Device {
        try Qcow2Device.open(
            file: files[0], dataFile: variant.hasDataFile ? files[1] : nil, readOnly: false,
            backing: backing)
    }

    // MARK: Work

    /// Does `steps` random things to the disk, one after the other, and closes it.
    func work(steps: Int, using random: inout SplitMix64) async throws {
        let device = try open()
        for _ in 0..<steps {
            let first = Int.random(in: 0..<sectors, using: &random)
            let most = Int.random(in: 0..<4, using: &random) == 0 ? 200 : 12
            let count = min(Int.random(in: 1...most, using: &random), sectors - first)
            try await step(device, first..<first + count, within: 0..<sectors, using: &random)
        }
        try await device.flush()
        try await device.close()
    }

    /// Has `workers` tasks do `steps` random things each at the same time, and closes the disk.
    ///
    /// Each sector is written by one task, so that its history has an order; but in the first half
    /// of the disk the sectors of all lie in each cluster.
    func workConcurrently(
        workers: Int, steps: Int, using random: inout SplitMix64
    ) async throws {
        let device = try open()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for worker in 0..<workers {
                let seed = random.next()
                group.addTask { [self] in
                    var random = SplitMix64(seed: seed)
                    for _ in 0..<steps {
                        let (range, own) = place(of: worker, of: workers, using: &random)
                        try await step(device, range, within: own, using: &random)
                    }
                }
            }
            try await group.waitForAll()
        }
        try await device.flush()
        try await device.close()
    }

    /// Where a worker does something next, and the sectors around that are its own.
    private func place(
        of worker: Int, of workers: Int, using random: inout SplitMix64
    ) -> (range: Range<Int>, own: Range<Int>) {
        let own: Range<Int>
        if Int.random(in: 0..<3, using: &random) > 0 {
            let group = Int.random(in: 0..<sectors / 2 / (3 * workers), using: &random)
            let first = (group * workers + worker) * 3
            own = first..<first + 3
        } else {
            let count = sectors / 2 / workers
            let first = sectors / 2 + worker * count
            own = first..<first + count
        }
        let first = Int.random(in: own, using: &random)
        let most = min(own.upperBound - first, 60)
        return (first..<first + Int.random(in: 1...most, using: &random), own)
    }

    /// Does one random thing to the sectors of `range`, or to whole clusters `within` others.
    private func step(
        _ device: Qcow2Device, _ range: Range<Int>, within own: Range<Int>,
        using random: inout SplitMix64
    ) async throws {
        let bytes = ByteRange(
            offset: UInt64(range.lowerBound * 512), lengthBytes: UInt64(range.count * 512))
        let begin = count
        switch Int.random(in: 0..<16, using: &random) {
        case 0...2 where variant.isCompressed:
            let clusterSectors = variant.clusterBytes / 512
            let start = (range.lowerBound / clusterSectors * clusterSectors)
            let most = clusterSectors * Int.random(in: 1...9, using: &random)
            let end = min(start + most, own.upperBound / clusterSectors * clusterSectors)
            guard start >= own.lowerBound, end > start else { return }
            let number = nextNumber()
            try await device.writeCompressed(
                at: UInt64(start * 512),
                from: .holding(SectorHistory.content(number, sectors: end - start)))
            note(number, start..<end, begin)
        case 0...8:
            let number = nextNumber()
            try await device.put(
                SectorHistory.content(number, sectors: range.count), at: range.lowerBound * 512,
                now: Bool.random(using: &random))
            note(number, range, begin)
        case 9, 10:
            try await device.writeZeroes(bytes, mayUnmap: Bool.random(using: &random))
            note(0, range, begin)
        case 11, 12:
            try await device.discard(bytes)
            let end = count
            let now = try await device.bytes(at: range.lowerBound * 512, range.count * 512)
            history.withLock { history in
                for (sector, found) in zip(range, SectorHistory.numbers(in: now)) where found == 0 {
                    history.write(0, to: sector..<sector + 1, begin: begin, end: end)
                }
            }
        default:
            try await device.flush()
            let end = count
            history.withLock { $0.flush(begin: begin, end: end) }
        }
    }

    private func nextNumber() -> UInt64 {
        number.wrappingAdd(1, ordering: .relaxed).newValue
    }

    private func note(_ number: UInt64, _ range: Range<Int>, _ begin: Int) {
        let end = count
        history.withLock { $0.write(number, to: range, begin: begin, end: end) }
    }

    // MARK: Judgement

    /// Judges what a crash left of the files.
    func expect(
        _ remains: [MemoryFile], _ crash: String, _ complaint: ([UInt64?]) -> String?
    ) async throws {
        let found = complaint(try await numbers(in: remains))
        #expect(found == nil, "\(crash): \(found ?? "")")
        if variant.isDataFileRaw {
            var raw = remains[1].content
            raw += [UInt8](repeating: 0, count: max(0, sectors * 512 - raw.count))
            let found = complaint(SectorHistory.numbers(in: Array(raw[..<(sectors * 512)])))
            #expect(found == nil, "\(crash): the raw data file: \(found ?? "")")
        }
        for (file, remains) in zip(files, remains) { try writeFile(file.path, remains.content) }
        let check = try Tool.run(["qemu-img", "check", image])
        #expect(
            (check.status == 0 || check.status == 3) && !check.output.contains("ERROR"),
            "\(crash): \(check.output)\(check.errors)")
    }

    /// What each sector of the image in `remains` holds.
    func numbers(in remains: [MemoryFile]) async throws -> [UInt64?] {
        let device = try Qcow2Device.open(
            file: remains[0], dataFile: variant.hasDataFile ? remains[1] : nil, readOnly: true,
            backing: backing)
        return SectorHistory.numbers(in: try await device.bytes(at: 0, sectors * 512))
    }
}

/// What was recorded of one file.
struct RecordedOperations {
    let path: String
    let start: [UInt8]
    var operations: [RecordingFile.Operation]
    /// Ascending numbers of a clock that other files share.
    let numbers: [Int]

    init(_ file: RecordingFile) {
        path = file.path
        start = file.start
        operations = file.operations
        numbers = file.numbers
    }

    /// How many of the operations are among the first `count` of all files.
    func count(before count: Int) -> Int { numbers.count { $0 < count } }

    /// What the file holds after the first `count` operations of all files, if nothing is lost.
    func replay(_ count: Int) -> MemoryFile {
        let file = MemoryFile(start, path: path)
        for operation in operations[..<self.count(before: count)] { operation.apply(to: file) }
        return file
    }
}

/// A power loss at some moment of a record: how much had begun, and what of it was lost.
struct PowerLoss: CustomStringConvertible {
    /// What became of one file.
    private struct Loss {
        let count: Int
        var lost: Set<Int> = []
        var torn: Set<Int> = []
    }

    let count: Int
    /// Whether the last operation was under way.
    let unfinished: Bool
    private var losses: [Loss] = []

    init(of files: [RecordedOperations], using random: inout SplitMix64) {
        count = Int.random(in: 1...files.reduce(0) { $0 + $1.operations.count }, using: &random)
        unfinished = Bool.random(using: &random)
        let share = Int.random(in: 1...7, using: &random)
        for file in files {
            var loss = Loss(count: file.count(before: count))
            let hasLast = loss.count > 0 && file.numbers[loss.count - 1] == count - 1
            for index in file.operations.volatileIndices(
                before: loss.count, unfinished: unfinished && hasLast)
            {
                switch Int.random(in: 0..<8, using: &random) {
                case 0: loss.torn.insert(index)
                case 1...share: loss.lost.insert(index)
                default: break
                }
            }
            losses.append(loss)
        }
    }

    /// How many operations had finished.
    var done: Int { unfinished ? count - 1 : count }

    var description: String {
        let files = losses.map { "without \($0.lost.sorted()), in part \($0.torn.sorted())" }
        return "power lost at \(count)\(unfinished ? ", unfinished" : ""), "
            + files.joined(separator: "; ")
    }

    /// What the files hold after it.
    func replay(_ files: [RecordedOperations], using random: inout SplitMix64) -> [MemoryFile] {
        var remains: [MemoryFile] = []
        for (recorded, loss) in zip(files, losses) {
            let file = MemoryFile(recorded.start, path: recorded.path)
            recorded.operations.replay(
                loss.count, on: file, without: loss.lost, torn: loss.torn, using: &random)
            remains.append(file)
        }
        return remains
    }
}

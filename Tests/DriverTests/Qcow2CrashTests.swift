import BlockCore
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import DriverQcow2

// The crash rule: whenever the power goes, the image has leaks at worst and holds what was flushed;
// whenever the process ends, it holds all that was acknowledged.
//
// A random workload, of one task or of several at the same time, is recorded as what its files are
// told. Crashes are replayed from the record: after a prefix of it, with everything (the process
// was killed) or without a random part of what was not durable (a power loss). TIDEMARK_CRASHES
// says how many of each; 1000 is the full number.

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
        CrashVariant(
            testDescription: "external data, over a backing file", hasBacking: true,
            hasDataFile: true),
        CrashVariant(
            testDescription: "raw external data", hasDataFile: true,
            options: ["data_file_raw=on"]),
        CrashVariant(
            testDescription: "subclusters in external data, over a backing file",
            clusterBytes: 16384, hasBacking: true, hasDataFile: true,
            options: ["extended_l2=on"]),
    ]

    @Test(arguments: variants)
    func anyCrashLeavesLeaksAtWorstAndWhatWasFlushed(variant: CrashVariant) async throws {
        let directory = try TemporaryDirectory()
        let disk = try RecordedDisk(variant, sectors: Self.sectors, in: directory)
        var random = Seed.generator("crashes \(variant.testDescription)")
        try await disk.work(steps: 90, using: &random)
        try await expectSoundness(of: disk, crashes: Self.crashes, using: &random)
    }

    @Test(arguments: variants)
    func soDoesAnyCrashUnderSeveralWriters(variant: CrashVariant) async throws {
        let directory = try TemporaryDirectory()
        let disk = try RecordedDisk(variant, sectors: Self.sectors, in: directory)
        var random = Seed.generator("concurrent crashes \(variant.testDescription)")
        try await disk.workConcurrently(workers: 4, steps: 40, using: &random)
        try await expectSoundness(of: disk, crashes: Self.crashes / 2, using: &random)
    }

    /// The same with durable writes taken for common ones, which must not pass.
    @Test func theReplayNoticesWhatTheOrderOfWritesPrevents() async throws {
        let directory = try TemporaryDirectory()
        let disk = try RecordedDisk(Self.variants[1], sectors: Self.sectors, in: directory)
        var random = Seed.generator("crashes without an order")
        try await disk.work(steps: 60, using: &random)
        var file = RecordedOperations(disk.files[0])
        file.operations = file.operations.map { operation in
            guard case .write(let offset, let bytes, _) = operation else { return operation }
            return RecordingFile.Operation.write(offset: offset, bytes: bytes, isDurable: false)
        }
        let history = disk.history.withLock { $0 }
        var complaints = 0
        for _ in 0..<2000 where complaints == 0 {
            let loss = PowerLoss(of: [file], using: &random)
            let remains = loss.replay([file], using: &random)
            guard let found = try? await disk.numbers(in: remains) else { continue }
            let complaint = history.complaintAfterPowerLoss(
                found, done: loss.done, begun: loss.count)
            complaints += complaint == nil ? 0 : 1
        }
        #expect(complaints > 0)
    }

    private func expectSoundness(
        of disk: RecordedDisk, crashes: Int, using random: inout SplitMix64
    ) async throws {
        let files = disk.files.map { RecordedOperations($0) }
        let history = disk.history.withLock { $0 }
        let step = max(1, disk.count / crashes)
        for count in stride(from: 0, through: disk.count, by: step) {
            try await disk.expect(
                files.map { $0.replay(count) }, "killed after \(count) operations"
            ) {
                history.complaintAfterKill($0, count: count)
            }
        }
        for _ in 0..<crashes {
            let loss = PowerLoss(of: files, using: &random)
            try await disk.expect(loss.replay(files, using: &random), "\(loss)") {
                history.complaintAfterPowerLoss($0, done: loss.done, begun: loss.count)
            }
        }
    }
}

import BlockCore
import TestSupport
import Testing

@testable import Volumes

/// What a point in time shows, and what it costs the writes that go on.
@Suite struct PointInTimeTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func limits(memoryBytes: UInt64 = 64 << 20) -> FleeceLimits {
        var limits = FleeceLimits(directory: directory.path)
        limits.memoryBytes = memoryBytes
        limits.reserveBytes = 0
        return limits
    }

    /// Writes, zeroes and discards of any length between the reads of a job that takes the granules
    /// in any order: it sees what was there at the instant, whatever was kept, in whatever parts,
    /// in memory or in the file.
    @Test(arguments: [4 << 10, 64 << 10, 256 << 10, 1 << 20] as [UInt64])
    func itShowsItsInstantInWhateverPartsContentIsKept(granuleBytes: UInt64) async throws {
        var random = Seed.generator("parts of granules of \(granuleBytes)")
        for round in 0..<3 {
            let lengthBytes = 5 * Int(granuleBytes) + Int.random(in: 0..<20_000, using: &random)
            let source = MemoryDevice(lengthBytes: lengthBytes)
            for _ in 0..<6 {
                let count = Int.random(in: 1...lengthBytes / 3, using: &random)
                let offset = Int.random(in: 0...lengthBytes - count, using: &random)
                try await source.write(at: UInt64(offset), from: .holding(random.pattern(count)))
            }
            let expected = source.content
            let point = PointInTime(
                source: source, lengthBytes: source.lengthBytes, granuleBytes: granuleBytes,
                limits: limits(memoryBytes: UInt64(round) << 16),
                owed: [ByteRange(offset: 0, lengthBytes: source.lengthBytes)])
            let granuleCount = (source.lengthBytes + granuleBytes - 1) / granuleBytes
            for granule in Array(0..<granuleCount).shuffled(using: &random) {
                for _ in 0..<Int.random(in: 0..<12, using: &random) {
                    try await change(source, point, &random)
                }
                let range = ByteRange(
                    offset: granule * granuleBytes,
                    end: min((granule + 1) * granuleBytes, source.lengthBytes))
                let bytes = expected[Int(range.offset)..<Int(range.end)]
                if try await point.claimZeroes(range) {
                    #expect(bytes.allSatisfy { $0 == 0 })
                    continue
                }
                let seen = BufferPool.shared.take(Int(range.lengthBytes))
                    .prefix(Int(range.lengthBytes))
                try await point.read(range, into: seen)
                #expect(seen.array == Array(bytes), "granule \(granule)")
            }
            #expect(point.failure == nil)
        }
    }

    private func change(
        _ source: MemoryDevice, _ point: PointInTime, _ random: inout SplitMix64
    ) async throws {
        let longest = [6_000, 6_000, 300_000, .max].randomElement(using: &random) ?? 0
        let count = Int.random(in: 1...min(longest, Int(source.lengthBytes)), using: &random)
        let offset = UInt64.random(in: 0...source.lengthBytes - UInt64(count), using: &random)
        let range = ByteRange(offset: offset, lengthBytes: UInt64(count))
        if Bool.random(using: &random) || !point.tryKeep(range) { await point.keep(range) }
        switch Int.random(in: 0..<4, using: &random) {
        case 0: try await source.writeZeroes(range, mayUnmap: true)
        case 1: try await source.discard(range)
        default: try await source.write(at: offset, from: .holding(random.pattern(count)))
        }
    }

    @Test func aWriteKeepsTheBlocksThatItTouchesAndEachOnce() async throws {
        let source = MemoryDevice(Array(repeating: 7, count: 1 << 20))
        let point = PointInTime(
            source: source, lengthBytes: source.lengthBytes, granuleBytes: 64 << 10,
            limits: limits(), owed: [ByteRange(offset: 0, lengthBytes: 128 << 10)])
        #expect(point.tryKeep(ByteRange(offset: 4100, lengthBytes: 1)))
        #expect(point.keptBytes == 4 << 10)
        #expect(point.tryKeep(ByteRange(offset: 4096, lengthBytes: 4096)))
        #expect(point.keptBytes == 4 << 10)
        #expect(point.tryKeep(ByteRange(offset: 0, lengthBytes: 12 << 10)))
        #expect(point.keptBytes == 12 << 10)
        // What is not of the point, and what the job has taken, needs no keeping.
        await point.keep(ByteRange(offset: 128 << 10, lengthBytes: 64 << 10))
        let content = BufferPool.shared.take(64 << 10).slice
        try await point.read(ByteRange(offset: 64 << 10, lengthBytes: 64 << 10), into: content)
        await point.keep(ByteRange(offset: 64 << 10, lengthBytes: 64 << 10))
        #expect(point.keptBytes == 12 << 10)
    }

    /// While a backup runs, a small write does not change threads where its old content is cached.
    @Test func theNowFaceKeepsWhatIsInThePageCache() async throws {
        let fixture = try VolumeFixture()
        let volume = try await fixture.startWithVolume().volume
        try await volume.write([UInt8](repeating: 3, count: 1 << 20), at: 0)
        let point = PointInTime(
            source: volume, lengthBytes: volume.lengthBytes, granuleBytes: 64 << 10,
            limits: limits(), owed: [volume.wholeRange])
        try await volume.atQuietInstant { _ in volume.duties.points.append(point) }
        let new = [UInt8](repeating: 4, count: 4096)
        let isDone = try new.withUnsafeBytes { try volume.tryWrite(at: 8192, from: $0) }
        #expect(isDone && point.keptBytes == 4096 && point.worstWriteDelay > .zero)
        let seen = BufferPool.shared.take(64 << 10).slice
        try await point.read(ByteRange(offset: 0, lengthBytes: 64 << 10), into: seen)
        #expect(seen.array == [UInt8](repeating: 3, count: 64 << 10))
        #expect(try await volume.contents()[8192] == 4)
        try await volume.atQuietInstant { _ in volume.duties.points = [] }
        try await volume.close()
    }
}

extension SplitMix64 {
    /// `count` bytes that are quick to make, hardly any of them zero.
    fileprivate mutating func pattern(_ count: Int) -> [UInt8] {
        if count < 10_000 { return bytes(count) }
        return [UInt8](repeating: .random(in: 1...255, using: &self), count: count)
    }
}

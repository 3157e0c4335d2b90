import BlockCore
import TestSupport
import Testing

@testable import Repository

/// Finding what differs from a point by its digests.
@Suite struct ComparisonTests {
    /// Against a model: every cluster that differs is found, and no other.
    @Test(arguments: [4096, 65536, 2 << 20] as [UInt64])
    func exactlyTheClustersThatDifferAreFound(granularity: UInt64) async throws {
        var random = Seed.generator("comparison \(granularity)")
        for round in 0..<3 {
            let folder = try TemporaryFolder()
            let repository = try await DirectoryRepository.create(at: folder.path)
            let length = Int.random(
                in: Int(granularity)...Int(granularity) * 5, using: &random)
            var volume = TestVolume(lengthBytes: length, granularityBytes: granularity)
            volume.change(using: &random, mayResize: false)
            try await volume.backUp(to: repository, .full, using: &random)
            volume.change(using: &random, mayResize: false)
            let parent = try await volume.backUp(to: repository, .incremental, using: &random)
            let before = volume.content
            // Shorter, equally long or longer than the parent.
            if round > 0 {
                volume.resize(to: max(1, length + Int.random(in: -5000...5000, using: &random)))
            }
            volume.change(using: &random, mayResize: false)
            let found = try await differences(of: volume, from: parent, in: repository)
            let cluster = Int(Grid.clusterBytes(granularityBytes: granularity))
            let hold = Grid.rangeToHold(
                parentBytes: UInt64(before.count), volumeBytes: volume.lengthBytes,
                granularityBytes: granularity)
            for start in stride(from: 0, to: volume.content.count, by: cluster) {
                let end = min(start + cluster, volume.content.count)
                let range = ByteRange(offset: UInt64(start), end: UInt64(end))
                let old = Array(before[min(start, before.count)..<min(end, before.count)])
                let padded = old + [UInt8](repeating: 0, count: end - start - old.count)
                let differs = padded != Array(volume.content[start..<end])
                let isFound = found.contains { $0.contains(range) }
                #expect(isFound == (differs || range.overlaps(hold)), "\(range), round \(round)")
            }
        }
    }

    private func differences(
        of volume: TestVolume, from parent: Manifest, in repository: DirectoryRepository
    ) async throws -> [ByteRange] {
        let clusterBytes = Grid.clusterBytes(granularityBytes: volume.granularityBytes)
        let comparison = CellComparison(
            algorithm: parent.digest.algorithm, clusterBytes: clusterBytes,
            rangeToHold: Grid.rangeToHold(
                parentBytes: parent.volume.lengthBytes, volumeBytes: volume.lengthBytes,
                granularityBytes: volume.granularityBytes))
        let cursor = try await repository.openContent(of: parent.point)
        #expect(cursor.volumeBytes == parent.volume.lengthBytes)
        var found: [ByteRange] = []
        var position: UInt64 = 0
        while position < volume.lengthBytes {
            let end = min(position + 2 * clusterBytes, volume.lengthBytes)
            let range = ByteRange(offset: position, end: end)
            let cells = try await cursor.pieces(of: range)
            let bytes = Array(volume.content[Int(position)..<Int(end)])
            if bytes.allSatisfy({ $0 == 0 }) {
                found += comparison.differences(ofZeroes: range, from: cells)
            } else {
                found += comparison.differences(of: slice(bytes), at: position, from: cells)
            }
            position = end
        }
        return found
    }

    @Test func aChainThatIsDamagedAnywhereIsNoParent() async throws {
        for (index, suffix) in [
            (0, "json"), (0, "qcow2"), (0, "digests"), (1, "qcow2"), (2, "digests"),
        ] {
            let lab = try await TestRepository()
            #expect(try await lab.repository.checkChain(of: lab.ids[2]).point == lab.ids[2])
            try lab.remove(index, suffix)
            await #expect(throws: BlockError.self) {
                _ = try await lab.repository.checkChain(of: lab.ids[2])
            }
            let flipped = try await TestRepository()
            try flipped.flip(index, suffix, at: suffix == "qcow2" ? 0 : 150)
            await #expect(throws: BlockError.self) {
                _ = try await flipped.repository.checkChain(of: flipped.ids[2])
            }
        }
    }
}

import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

/// A directory repository with one volume's chain in it: a full and two increments.
struct TestRepository {
    let folder: TemporaryFolder
    let repository: DirectoryRepository
    private(set) var volume: TestVolume
    private(set) var manifests: [Manifest] = []
    private(set) var contents: [[UInt8]] = []
    var random: SplitMix64

    /// Repositories of different variants have different content in the same run.
    init(
        lengthBytes: Int = 600_000, granularityBytes: UInt64 = 65536, variant: UInt64 = 0
    ) async throws {
        folder = try TemporaryFolder()
        repository = try await DirectoryRepository.create(at: folder.path)
        volume = TestVolume(lengthBytes: lengthBytes, granularityBytes: granularityBytes)
        random = SplitMix64(seed: Seed.current &+ variant)
        volume.write(at: 0, randomBytes(lengthBytes * 3 / 4, using: &random))
        try await add(.full)
        volume.write(at: 70_000, randomBytes(100_000, using: &random))
        volume.writeZeroes(at: 300_000, count: 100_000)
        try await add(.incremental)
        volume.write(at: 80_000, randomBytes(10, using: &random))
        try await add(.incremental)
    }

    private mutating func add(_ level: PointLevel) async throws {
        manifests.append(try await volume.backUp(to: repository, level, using: &random))
        contents.append(volume.content)
    }

    var ids: [PointID] { manifests.map(\.point) }

    /// The folder of the volume.
    var volumePath: String {
        "\(folder.path)/\(VolumeFolder.name(volume: volume.name, uuid: volume.uuid))"
    }

    /// The path of a file of the point number `index`.
    func path(_ index: Int, _ suffix: String) -> String { "\(volumePath)/\(ids[index]).\(suffix)" }

    func remove(_ index: Int, _ suffix: String) throws {
        try FileManager.default.removeItem(atPath: path(index, suffix))
    }

    /// Turns one bit of a file around.
    func flip(_ index: Int, _ suffix: String, at offset: Int) throws {
        let file = try HostFile(path: path(index, suffix), access: .readWrite)
        let buffer = BufferPool.shared.take(1).prefix(1)
        try file.read(at: UInt64(offset), into: buffer.bytes)
        buffer.bytes[0] ^= 0x10
        try file.write(at: UInt64(offset), from: buffer.readOnlyBytes)
    }

    /// A further change of the volume, and a writer for it that is filled and not yet committed.
    mutating func beginAnother(
        _ level: PointLevel = .incremental
    ) async throws -> any PointWriter {
        volume.write(at: 5000, randomBytes(1000, using: &random))
        let writer = try await repository.beginPoint(volume.plan(level))
        try await volume.fill(writer, using: &random)
        return writer
    }
}

/// Expects `body` to throw a `BlockError` of `kind` whose text has `text` in it.
func expectError(
    _ kind: BlockError.Kind, _ text: String = "",
    _ location: SourceLocation = #_sourceLocation, body: () async throws -> Void
) async {
    let error = await #expect(throws: BlockError.self, sourceLocation: location) {
        try await body()
    }
    #expect(error?.kind == kind, "\(String(describing: error))", sourceLocation: location)
    if !text.isEmpty {
        let description = String(describing: error)
        #expect(description.contains(text), "\(description)", sourceLocation: location)
    }
}

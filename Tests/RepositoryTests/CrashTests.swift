import BlockCore
import Foundation
import Testing

@testable import Repository

/// A crash at any instant of a commit leaves a point whole or absent, and a sweep cleans up.
///
/// A crash is a copy of the folder as it lies there: no process holds the copy's lock files.
@Suite struct CrashTests {
    private func temporaryNames(_ folder: TemporaryFolder) throws -> [String] {
        try folder.snapshot().keys.filter { $0.hasSuffix(".tmp") }.sorted()
    }

    /// Expects `crashed` to hold the three points of `lab` as they were and nothing of `id`, even
    /// before a sweep, and a sweep to remove the rest.
    private func expectAbsent(
        _ id: PointID, in crashed: TemporaryFolder, _ lab: TestRepository,
        _ location: SourceLocation = #_sourceLocation
    ) async throws {
        let repository = try await DirectoryRepository.open(at: crashed.path)
        let uuid = lab.volume.uuid
        #expect(
            try await repository.contains(id, volumeUUID: uuid) == .absent,
            sourceLocation: location)
        #expect(try await repository.points().map(\.id) == lab.ids, sourceLocation: location)
        let removed = try await repository.sweep()
        #expect(!removed.isEmpty, sourceLocation: location)
        #expect(try await repository.sweep() == [], sourceLocation: location)
        #expect(
            try crashed.snapshot().keys.filter { $0.contains(id.text) } == [],
            sourceLocation: location)
        for (id, expected) in zip(lab.ids, lab.contents) {
            let found = try await content(of: id, in: repository)
            #expect(found == expected, sourceLocation: location)
        }
        // What is left takes the next point.
        var volume = lab.volume
        var random = lab.random
        let next = try await volume.backUp(to: repository, .incremental, using: &random)
        let found = try await content(of: next.point, in: repository)
        #expect(found == volume.content, sourceLocation: location)
    }

    @Test func whileDataIsWritten() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        let crashed = try lab.folder.copy()
        #expect(try temporaryNames(crashed).count == 2)
        try await expectAbsent(writer.plan.id, in: crashed, lab)
        await writer.abandon()
    }

    @Test func justBeforeTheManifest() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        let copies = Copies()
        let folder = lab.folder
        _ = try await writer.commit { () async throws(BlockError) in copies.take(folder) }
        let id = writer.plan.id

        let before = try #require(copies.last)
        let names = try before.snapshot().keys.filter { $0.contains(id.text) }
        #expect(names.contains { $0.hasSuffix("\(id).qcow2") })
        #expect(names.contains { $0.hasSuffix("\(id).digests") })
        #expect(!names.contains { $0.hasSuffix("\(id).json") })

        // The same with the manifest half written, and with only the image renamed.
        let half = try before.copy()
        let volumeFolder = try #require(
            try HostDirectory.names(in: half.path).first(where: VolumeFolder.isOurs))
        let stem = "\(half.path)/\(volumeFolder)/\(id)"
        try Data("{".utf8).write(to: URL(filePath: "\(stem).json.4711.12345.tmp"))
        let renamed = try half.copy()
        let other = "\(renamed.path)/\(volumeFolder)/\(id)"
        try FileManager.default.moveItem(
            atPath: "\(other).digests", toPath: "\(other).0123abcd.digests.tmp")

        for crashed in [before, half, renamed] { try await expectAbsent(id, in: crashed, lab) }
    }

    @Test func justAfterTheManifest() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        let manifest = try await writer.commit {}
        let crashed = try lab.folder.copy()
        let lock = "\(manifest.point).0123abcd.writer.tmp"
        let folder = "\(crashed.path)/\(lab.volumePath.split(separator: "/").last ?? "")"
        try Data().write(to: URL(filePath: "\(folder)/\(lock)"))
        let repository = try await DirectoryRepository.open(at: crashed.path)
        let presence = try await repository.contains(
            manifest.point, volumeUUID: lab.volume.uuid)
        #expect(presence == .whole)
        #expect(try await repository.sweep() == ["\(folder)/\(lock)"])
        #expect(try await content(of: manifest.point, in: repository) == lab.volume.content)
    }

    @Test func aFlushThatFailsWithdrawsThePoint() async throws {
        var lab = try await TestRepository()
        let before = try lab.folder.snapshot()
        let writer = try await lab.beginAnother()
        await expectError(.io) {
            _ = try await writer.commit { () async throws(BlockError) in
                throw BlockError(.io, "flush", on: "source")
            }
        }
        #expect(try lab.folder.snapshot() == before)
        let presence = try await lab.repository.contains(
            writer.plan.id, volumeUUID: lab.volume.uuid)
        #expect(presence == .absent)
    }

    @Test func aCancelledTaskCommitsNothing() async throws {
        var lab = try await TestRepository()
        let before = try lab.folder.snapshot()
        let writer = try await lab.beginAnother()
        let task = Task {
            _ = try await writer.commit { () async throws(BlockError) in
                withUnsafeCurrentTask { $0?.cancel() }
            }
        }
        await expectError(.cancelled) { try await task.value }
        #expect(try lab.folder.snapshot() == before)
    }

    @Test func aSweepLeavesALiveWriterAlone() async throws {
        var lab = try await TestRepository()
        let writer = try await lab.beginAnother()
        let swept = Copies()
        let repository = lab.repository
        #expect(try await repository.sweep() == [])
        let manifest = try await writer.commit { () async throws(BlockError) in
            swept.note(try await repository.sweep())
        }
        #expect(swept.notes == [[]])
        #expect(try await content(of: manifest.point, in: repository) == lab.volume.content)
    }

    @Test func aSweepTouchesNothingThatIsNotOurs() async throws {
        let lab = try await TestRepository()
        let id = try PointID()
        let root = lab.folder.path
        let ours = lab.volumePath
        let foreign = [
            "\(root)/notes.tmp", "\(root)/tidemark-repository.json.bak",
            "\(root)/tidemark-repository.json.x.1.tmp", "\(ours)/notes.txt",
            "\(ours)/disk.qcow2.tmp", "\(ours)/\(id).tmp", "\(ours)/\(id).qcow2.tmp",
            "\(ours)/\(id).0123abcd.raw.tmp", "\(ours)/\(id).0123ABCD.qcow2.tmp",
            "\(ours)/\(id).json.12.tmp", "\(ours)/\(id).json.a.1.tmp", "\(ours)/x\(id).json",
            // Data without a manifest and without a writer's lock: perhaps somebody's last copy.
            "\(ours)/\(id).qcow2", "\(ours)/\(id).digests",
        ]
        for path in foreign { try Data("mine".utf8).write(to: URL(filePath: path)) }
        try HostDirectory.create("\(root)/elsewhere")
        try Data().write(to: URL(filePath: "\(root)/elsewhere/\(id).0123abcd.qcow2.tmp"))
        let before = try lab.folder.snapshot()
        #expect(try await lab.repository.sweep() == [])
        #expect(try lab.folder.snapshot() == before)

        try Data().write(to: URL(filePath: "\(root)/tidemark-repository.json.77.8.tmp"))
        try Data().write(to: URL(filePath: "\(ours)/\(id).0123abcd.digests.tmp"))
        #expect(try await lab.repository.sweep().count == 2)
        #expect(try lab.folder.snapshot() == before)
    }
}

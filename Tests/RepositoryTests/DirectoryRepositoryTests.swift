import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

@Suite struct DirectoryRepositoryTests {
    @Test func aFolderWithSomethingElseInItIsRefused() async throws {
        let folder = try TemporaryFolder()
        try Data("x".utf8).write(to: URL(filePath: "\(folder.path)/holiday.jpg"))
        await expectError(.invalid, "holiday.jpg") {
            _ = try await DirectoryRepository.create(at: folder.path)
        }
        #expect(try folder.snapshot().keys.sorted() == ["holiday.jpg"])
    }

    @Test func aRepositoryIsNotMadeTwice() async throws {
        let folder = try TemporaryFolder()
        _ = try await DirectoryRepository.create(at: folder.path)
        let before = try folder.snapshot()
        await expectError(.invalid, "there is one already") {
            _ = try await DirectoryRepository.create(at: folder.path)
        }
        #expect(try folder.snapshot() == before)
    }

    @Test func aFreshFileSystemIsTakenWithItsLostAndFound() async throws {
        let folder = try TemporaryFolder()
        try HostDirectory.create("\(folder.path)/lost+found")
        let repository = try await DirectoryRepository.create(at: "\(folder.path)/")
        #expect(repository.location == folder.path)
        #expect(try await repository.points().isEmpty)
    }

    @Test func noRepositoryIsNotFoundAndSaysWhatToDo() async throws {
        let folder = try TemporaryFolder()
        await expectError(.notFound, "repo init") {
            _ = try await DirectoryRepository.open(at: folder.path)
        }
        await expectError(.notFound) {
            _ = try await DirectoryRepository.open(at: "\(folder.path)/nowhere")
        }
    }

    @Test func aNewerOrDamagedDescriptionIsRefused() async throws {
        let folder = try TemporaryFolder()
        let path = "\(folder.path)/tidemark-repository.json"
        for (text, kind) in [
            (#"{"formatVersion": 2}"#, BlockError.Kind.unsupported),
            (#"{"formatVersion": 0}"#, .corrupt), (#"{"formatVersion": 1}"#, .corrupt),
            ("", .corrupt), ("[]", .corrupt),
        ] {
            try Data(text.utf8).write(to: URL(filePath: path))
            await expectError(kind) { _ = try await DirectoryRepository.open(at: folder.path) }
        }
    }

    @Test func aGapNamesTheMissingPoint() async throws {
        let lab = try await TestRepository()
        try lab.remove(1, "json")
        for body in [
            { _ = try await lab.repository.chain(for: lab.ids[2]) },
            { _ = try await lab.repository.openPoint(lab.ids[2]) },
            { try await lab.repository.readContent(of: lab.ids[2]) { _ in } },
        ] as [() async throws -> Void] {
            await expectError(.notFound, lab.ids[1].text, body: body)
        }
        let report = try await lab.repository.verify(lab.ids[2])
        #expect(report.problems.contains { $0.description.contains(lab.ids[1].text) })
    }

    @Test func listsShowWhatIsDamagedAndWhatDependsOnIt() async throws {
        let lab = try await TestRepository()
        let good = try await lab.repository.points()
        #expect(good.map(\.id) == lab.ids)
        #expect(good.allSatisfy { $0.problem == nil && $0.manifest != nil })

        try lab.flip(1, "json", at: 40)
        let points = try await lab.repository.points()
        #expect(points.map(\.id) == lab.ids)
        #expect(points.map { $0.problem == nil } == [true, false, false])

        try lab.remove(1, "json")
        let orphan = try await lab.repository.points()
        #expect(orphan.map { $0.problem == nil } == [true, false, false])
        #expect(orphan[1].problem?.description.contains("no manifest") == true)
        #expect(orphan[2].problem?.description.contains(lab.ids[1].text) == true)
    }

    @Test func aParentOfOtherContentIsRefused() async throws {
        let lab = try await TestRepository()
        var other = lab.manifests[1]
        other.contentDigest = String(repeating: "0", count: 64)
        let (_, bytes) = try ManifestCodec.encode(other)
        try Data(bytes).write(to: URL(filePath: lab.path(1, "json")))
        await expectError(.corrupt, "is not what \(lab.ids[2]) was made from") {
            _ = try await lab.repository.chain(for: lab.ids[2])
        }
        let points = try await lab.repository.points()
        #expect(points.map { $0.problem == nil } == [true, true, false])
    }

    @Test func aManifestUnderAnotherNameIsRefused() async throws {
        let lab = try await TestRepository()
        let id = try PointID()
        try FileManager.default.copyItem(
            atPath: lab.path(0, "json"), toPath: "\(lab.volumePath)/\(id).json")
        await expectError(.corrupt, lab.ids[0].text) {
            _ = try await lab.repository.chain(for: id)
        }
    }

    @Test func recoveryIsToldWholeOrAbsentOrNothing() async throws {
        let lab = try await TestRepository()
        let uuid = lab.volume.uuid
        #expect(try await lab.repository.contains(lab.ids[1], volumeUUID: uuid) == .whole)
        #expect(try await lab.repository.contains(PointID(), volumeUUID: uuid) == .absent)
        let other = UUID().uuidString.lowercased()
        #expect(try await lab.repository.contains(lab.ids[1], volumeUUID: other) == .absent)

        try lab.flip(0, "json", at: 40)
        await expectError(.corrupt) {
            _ = try await lab.repository.contains(lab.ids[0], volumeUUID: uuid)
        }
        try lab.remove(1, "qcow2")
        await expectError(.notFound) {
            _ = try await lab.repository.contains(lab.ids[1], volumeUUID: uuid)
        }
        // As after an unmount: the folder is there, and empty.
        try FileManager.default.removeItem(
            atPath: "\(lab.folder.path)/tidemark-repository.json")
        await expectError(.notFound, "mount") {
            _ = try await lab.repository.contains(lab.ids[2], volumeUUID: uuid)
        }
        await expectError(.notFound) { _ = try await lab.repository.points() }
    }

    @Test func anotherRepositoryInItsPlaceIsNoticed() async throws {
        let lab = try await TestRepository()
        let other = try TemporaryFolder()
        _ = try await DirectoryRepository.create(at: other.path)
        let name = "tidemark-repository.json"
        try FileManager.default.removeItem(atPath: "\(lab.folder.path)/\(name)")
        try FileManager.default.copyItem(
            atPath: "\(other.path)/\(name)", toPath: "\(lab.folder.path)/\(name)")
        await expectError(.notFound, "another repository") {
            _ = try await lab.repository.points()
        }
    }

    @Test func twoVolumesOfOneNameAndPrefixHaveTheirOwnFolders() async throws {
        let folder = try TemporaryFolder()
        var random = SplitMix64(seed: Seed.current)
        let repository = try await DirectoryRepository.create(at: folder.path)
        var first = TestVolume(lengthBytes: 1000)
        var second = TestVolume(lengthBytes: 1000)
        second.uuid = String(first.uuid.prefix(8) + second.uuid.dropFirst(8))
        second.write(at: 0, [1])
        try await first.backUp(to: repository, .full, using: &random)
        try await second.backUp(to: repository, .full, using: &random)
        second.write(at: 0, [2])
        let last = try await second.backUp(to: repository, .incremental, using: &random)
        #expect(Set(try await repository.points().map(\.folder)).count == 2)
        #expect(try await content(of: last.point, in: repository) == second.content)
        let again = try await second.backUp(to: repository, .full, using: &random)
        #expect(try await content(of: again.point, in: repository) == second.content)
        #expect(Set(try await repository.points().map(\.folder)).count == 2)
    }

    @Test(arguments: [
        "../../etc", ".hidden", "", "a/b", "größe", String(repeating: "x", count: 300),
    ])
    func noVolumeNameLeavesTheRepository(_ name: String) async throws {
        let folder = try TemporaryFolder()
        var random = SplitMix64(seed: Seed.current)
        let repository = try await DirectoryRepository.create(at: folder.path)
        var volume = TestVolume(lengthBytes: 1000)
        volume.name = name
        let manifest = try await volume.backUp(to: repository, .full, using: &random)
        #expect(manifest.volume.name == name)
        let points = try await repository.points()
        #expect(points.map(\.id) == [manifest.point])
        let names = try HostDirectory.names(in: folder.path)
        #expect(names.count == 2 && names.allSatisfy { !$0.hasPrefix(".") })
    }
}

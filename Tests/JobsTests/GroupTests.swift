import BlockCore
import Catalog
import Foundation
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Several volumes at one instant.
@Suite struct GroupTests {
    /// Writers put a rising number into each volume in turn; at one instant the numbers of two
    /// volumes differ by one at most.
    @Test func allMembersShowOneInstant() async throws {
        let lab = try await BackupLab(volumeCount: 3)
        for _ in 0..<3 {
            let numbers = try await numbersAtOnce(lab)
            #expect(Self.areOfOneInstant(numbers), "\(numbers)")
        }
        let groups = try await lab.repository.repository.groups()
        #expect(groups.count == 3)
        for group in groups {
            #expect(Set(group.members.map(\.volumeName)) == ["disk0", "disk1", "disk2"])
            for member in group.members {
                let manifest = try await lab.repository.repository.chain(for: member.point).last
                #expect(manifest?.group == group.group.text)
                #expect(manifest?.contentDigest == member.contentDigest)
                #expect(manifest?.freeze.time == group.freeze.time)
            }
        }
    }

    @Test func aGroupThatIsFrozenOneByOneIsNoticed() async throws {
        let lab = try await BackupLab(volumeCount: 3)
        Mutant.active = .freezeOneByOne
        defer { Mutant.active = nil }
        for _ in 0..<10 where try await !Self.areOfOneInstant(numbersAtOnce(lab)) { return }
        Issue.record("volumes that were frozen one after the other look like one instant")
    }

    /// What a backup of all volumes finds of the writers' numbers.
    private func numbersAtOnce(_ lab: BackupLab) async throws -> [Int] {
        let writer = Task {
            var number: UInt64 = 0
            while !Task.isCancelled {
                number += 1
                for volume in lab.volumes {
                    let bytes = withUnsafeBytes(of: number.littleEndian) { Array($0) }
                    try await volume.write(at: 500_000, from: .holding(bytes))
                }
            }
        }
        try await Task.sleep(for: .milliseconds(20))
        let result = try await lab.run(lab.backup(volumeCount: 3))
        writer.cancel()
        _ = await writer.result
        #expect(result.failures.isEmpty && result.points.count == 3)
        var numbers: [Int] = []
        for outcome in result.points {
            let id = try #require(PointID(outcome.pointID))
            let bytes = try await lab.content(of: id)[500_000..<500_008]
            numbers.append(bytes.reversed().reduce(0) { $0 << 8 | Int($1) })
        }
        return numbers
    }

    private static func areOfOneInstant(_ numbers: [Int]) -> Bool {
        numbers.allSatisfy { (0...1).contains(numbers[0] - $0) }
    }

    @Test func aMemberThatFailsLeavesTheOthersAsPointsAndNoGroup() async throws {
        let lab = try await BackupLab(volumeCount: 3)
        var random = Seed.generator("failed member")
        for volume in lab.volumes { try await lab.change(&random, of: volume) }
        lab.disk.fail(.read, lasting: true)
        let result = try await lab.run(lab.backup(volumeCount: 3))
        lab.disk.heal()
        #expect(result.points.map(\.volume) == ["disk1", "disk2"])
        #expect(result.failures.map(\.subject) == ["disk0"])
        #expect(try await lab.repository.repository.groups().isEmpty)
        let points = try await lab.points()
        #expect(points.count == 2)
        let groups = Set(
            try await lab.repository.repository.points().map { $0.manifest?.group })
        #expect(groups.count == 1 && groups.first != .some(nil))

        let whole = try await lab.run(lab.backup(volumeCount: 3))
        #expect(whole.points.map(\.level) == ["full", "incremental", "incremental"])
        #expect(try await lab.repository.repository.groups().count == 1)
        for (outcome, volume) in zip(whole.points, lab.volumes) {
            try await lab.expectCurrent(try #require(PointID(outcome.pointID)), of: volume)
        }
    }

    /// Trap: a new disk broke the whole machine's chain.
    @Test func aNewVolumeBreaksNoOthersChain() async throws {
        let lab = try await BackupLab(volumeCount: 2)
        try await lab.run(lab.backup())
        let result = try await lab.run(lab.backup(volumeCount: 2))
        #expect(result.points.map(\.level) == ["incremental", "full"])
        #expect(result.points.map(\.reason) == ["bitmap", "first"])
    }

    @Test func aFreezeThatOneVolumeCannotEnterReleasesAllUnchanged() async throws {
        let lab = try await BackupLab(volumeCount: 2)
        lab.disk.pause(.write)
        let stuck = Task { try await lab.volume.write(at: 0, from: .holding([1])) }
        await lab.disk.waitUntilHeld(.write)
        let requests = lab.volumes.map { volume in
            FreezeRequest(
                volume: volume, bitmapName: "vault", granularityBytes: 65536,
                point: .init(repositoryID: lab.repository.id, pointID: "p"), parent: nil,
                fleece: FleeceLimits(directory: lab.directory.path))
        }
        let error = await #expect(throws: BlockError.self) {
            _ = try await Freeze.take(requests, deadline: .milliseconds(100))
        }
        #expect(error?.kind == .busy && error?.place == "disk0")
        try await lab.volumes[1].write(at: 0, from: .holding([1]))
        #expect(lab.volumes.allSatisfy { $0.frozenBitmaps().isEmpty })
        #expect(lab.volumes.allSatisfy { $0.bitmapStatuses().isEmpty })
        lab.disk.release(.write)
        try await stuck.value
        #expect(try await lab.run(lab.backup(volumeCount: 2)).failures.isEmpty)
    }

    @Test func aGroupWhoseManifestCannotBeWrittenIsNone() async throws {
        let lab = try await BackupLab(volumeCount: 2)
        try await lab.run(lab.backup(volumeCount: 2))
        // Of two members each manifest is renamed once, besides image and table.
        for afterEffect in [false, true] {
            lab.files.fail(number: 7, only: .rename, afterEffect: afterEffect)
            let result = try await lab.run(lab.backup(volumeCount: 2))
            #expect(lab.files.failed == [.rename])
            lab.files.heal()
            #expect(result.points.count == 2)
            #expect(result.failures.count == 1 && result.failures[0].subject.hasPrefix("group "))
            #expect(try await lab.repository.repository.groups().count == 1)
            #expect(try lab.temporaryNames().isEmpty)
        }
    }

    @Test func aDamagedGroupManifestCountsAsNoneAndASweepRemovesHalfOnes() async throws {
        let lab = try await BackupLab(volumeCount: 2)
        try await lab.run(lab.backup(volumeCount: 2))
        let repository = lab.repository.repository
        let group = try #require(try await repository.groups().first)
        let folder = lab.directory.path("vault/groups")
        let half = "\(folder)/\(group.group).0123abcd.group.tmp"
        try Data("{".utf8).write(to: URL(filePath: half))
        try Data("mine".utf8).write(to: URL(filePath: "\(folder)/notes.tmp"))
        #expect(try await repository.sweep() == [half])
        #expect(try await repository.groups() == [group])
        let path = "\(folder)/\(group.group).json"
        var bytes = try Data(contentsOf: URL(filePath: path))
        bytes[bytes.count / 2] ^= 1
        try bytes.write(to: URL(filePath: path))
        #expect(try await repository.groups().isEmpty)
        #expect(try await lab.points().count == 2)
    }
}

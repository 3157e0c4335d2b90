import BlockCore
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Each single operation of a backup fails once: on the repository's files, on the source, in the
/// catalog. The point is whole or absent, the message names the cause, the next backup is right.
@Suite struct EveryFaultTests {
    /// Where an operation fails.
    enum Place: String, CaseIterable, Sendable {
        case files
        /// There, but only once it has had its effect.
        case filesAfterwards
        case source, catalog

        /// A backup has at least so many operations there.
        var operationCountMin: Int {
            switch self {
            case .files, .filesAfterwards: 40
            case .source: 1
            case .catalog: 2
            }
        }
    }

    /// Makes the `number`th operation at `place` fail; says afterwards whether it was met.
    private func plant(_ place: Place, _ number: Int, in lab: BackupLab) -> () -> Bool {
        switch place {
        case .files, .filesAfterwards:
            lab.files.fail(number: number, afterEffect: place == .filesAfterwards)
            return { !lab.files.failed.isEmpty }
        case .source:
            let operations = [FaultDevice.Operation.read, .flush]
            let before = operations.map { lab.disk.count($0) }
            for operation in operations {
                lab.disk.fail(
                    operation, number: number, with: BlockError(.io, "injected", on: "disk"))
            }
            return {
                zip(operations, before).contains { lab.disk.count($0) - $1 >= number }
            }
        case .catalog:
            let before = lab.commits.count
            lab.commits.fail(number)
            return { lab.commits.count - before >= number }
        }
    }

    @Test(arguments: [BackupLevel.full, .auto], Place.allCases)
    func thePointIsWholeOrAbsentAndTheNextBackupIsRight(
        _ level: BackupLevel, _ place: Place
    ) async throws {
        var random = Seed.generator("every fault \(level) \(place)")
        var number = 1
        while try await isMet(number, at: place, of: level, &random) { number += 1 }
        #expect(number > place.operationCountMin, "only \(number - 1) faults")
    }

    /// One backup with one fault, on a repository of its own, and what follows. Returns whether
    /// the backup came as far as the fault.
    private func isMet(
        _ number: Int, at place: Place, of level: BackupLevel, _ random: inout SplitMix64
    ) async throws -> Bool {
        let lab = try await BackupLab(lengthBytes: 300_001)
        try await lab.change(&random, count: 3)
        let first = try await lab.makePoint(.full)
        try await lab.change(&random, count: 2)
        let occasion = Comment("\(level) \(place), operation \(number)")

        let wasMet = plant(place, number, in: lab)
        var made: [PointID] = []
        var message = ""
        do {
            let result = try await lab.run(lab.backup(level))
            made = result.points.compactMap { PointID($0.pointID) }
            message = result.failures.map(\.error.description).joined()
        } catch let error as BlockError {
            message = error.description
        }
        let isMet = wasMet()
        lab.files.heal()
        lab.disk.heal()
        lab.commits.heal()

        // What a removal that failed has left is for the sweep.
        try await lab.repository.repository.sweep()
        #expect(try lab.temporaryNames().isEmpty, occasion)
        let added = try await lab.points().filter { $0 != first.point }
        #expect(added == made, occasion)
        for point in added { try await lab.expectCurrent(point, occasion) }
        #expect(!made.isEmpty || message.contains("injected"), "\(occasion): \(message)")

        try await lab.change(&random, count: 2)
        let next = try await lab.makePoint()
        try await lab.expectCurrent(next.point, occasion)
        #expect(lab.volume.frozenBitmaps().isEmpty, occasion)
        return isMet
    }
}

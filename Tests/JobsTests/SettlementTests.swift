import BlockCore
import Catalog
import Foundation
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// What becomes of a bitmap whose backup made its point and then could not say so.
@Suite struct SettlementTests {
    @Test func aPointThatBecameWholeIsPromotedWhenItsRepositoryAnswersAgain() async throws {
        let lab = try await BackupLab()
        let bitmap = try await unsettledBitmap(of: lab)
        await #expect(throws: BlockError.self) { try await settleWhileAway(bitmap, lab) }
        #expect(bitmap.isFrozen)
        guard case .promoted = try await Settlement.settle(bitmap, in: lab.repository) else {
            Issue.record("a whole point was not promoted")
            return
        }
        #expect(lab.volume.bitmapStatuses()[0].continues?.pointID == bitmap.pending.pointID)
        try await lab.volume.write(at: 600_000, from: .holding([7]))
        let next = try await lab.makePoint(.incremental)
        #expect(next.parent?.point.text == bitmap.pending.pointID && next.reason == .bitmap)
        try await lab.expectCurrent(next.point)
    }

    @Test func aSettlementWithoutAnAnswerIsNoticed() async throws {
        let lab = try await BackupLab()
        let bitmap = try await unsettledBitmap(of: lab)
        Mutant.active = .settleWithoutAnswer
        defer { Mutant.active = nil }
        _ = try await settleWhileAway(bitmap, lab)
        #expect(!bitmap.isFrozen)
        #expect(lab.volume.bitmapStatuses()[0].continues?.pointID != bitmap.pending.pointID)
    }

    private func unsettledBitmap(of lab: BackupLab) async throws -> FrozenBitmap {
        var random = Seed.generator("settlement")
        try await lab.change(&random)
        _ = try await lab.makePoint()
        try await lab.change(&random)
        // The freeze commits the bits ahead of itself and then itself; the end of the backup is next.
        lab.commits.fail(3)
        let result = try await lab.run(lab.backup(.incremental))
        #expect(result.failures.count == 1)
        return try #require(lab.volume.frozenBitmaps().first)
    }

    private func settleWhileAway(
        _ bitmap: FrozenBitmap, _ lab: BackupLab
    ) async throws -> Settlement {
        let vault = lab.directory.path("vault")
        let elsewhere = lab.directory.path("elsewhere")
        try FileManager.default.moveItem(atPath: vault, toPath: elsewhere)
        let result = await Result { () async throws -> Settlement in
            try await Settlement.settle(bitmap, in: lab.repository)
        }
        try FileManager.default.moveItem(atPath: elsewhere, toPath: vault)
        return try result.get()
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}

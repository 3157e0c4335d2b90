import BlockCore
import Foundation
import Testing

@testable import Repository

@Suite struct VerifyTests {
    @Test func aGoodChainIsGood() async throws {
        let lab = try await TestRepository()
        for id in lab.ids {
            let report = try await lab.repository.verify(id)
            #expect(report.isGood, "\(report)")
        }
    }

    /// Each byte of each stored cell; the qcow2's own tables lie around the data.
    @Test func aFlippedByteOfDataIsFoundWithItsRange() async throws {
        let lab = try await TestRepository()
        let size = try HostFile(path: lab.path(0, "qcow2"), access: .readOnly).sizeBytes()
        #expect(size > 8 * 65536)
        for cluster in 1...4 {
            let offset = cluster * 65536 + 1234
            try lab.flip(0, "qcow2", at: offset)
            let report = try await lab.repository.verify(lab.ids[0])
            #expect(report.problems.isEmpty)
            #expect(report.badRanges.count == 1)
            #expect(report.badRanges.first?.lengthBytes == 65536)
            try lab.flip(0, "qcow2", at: offset)
        }
        #expect(try await lab.repository.verify(lab.ids[0]).isGood)
    }

    @Test func aDamagedZeroExtentIsFound() async throws {
        let lab = try await TestRepository()
        // The image of an increment whose zero clusters are gone shows the parent's data again.
        let plan = try lab.volume.plan(.incremental)
        let image = lab.path(1, "qcow2")
        let before = try Data(contentsOf: URL(filePath: image))
        #expect(plan.parent != nil)
        var bytes = before
        var changed = 0
        // A zero cluster without storage is an L2 entry of 1, big-endian.
        let entry = Data([0, 0, 0, 0, 0, 0, 0, 1])
        for offset in stride(from: 65536, to: bytes.count, by: 8)
        where bytes[offset..<offset + 8] == entry {
            bytes[offset + 7] = 0
            changed += 1
        }
        #expect(changed >= 1)
        try bytes.write(to: URL(filePath: image))
        let report = try await lab.repository.verify(lab.ids[1])
        #expect(!report.badRanges.isEmpty)
        #expect(report.problems.isEmpty)
    }

    @Test func aDamagedTableIsFound() async throws {
        let lab = try await TestRepository()
        for offset in [0, 40, 64, 72, 64 + 16, 64 + 31] {
            try lab.flip(1, "digests", at: offset)
            #expect(try await !lab.repository.verify(lab.ids[1]).isGood, "byte \(offset)")
            try lab.flip(1, "digests", at: offset)
        }
        let table = try HostFile(path: lab.path(1, "digests"), access: .readWrite)
        try table.truncate(toBytes: try table.sizeBytes() - 32)
        #expect(try await !lab.repository.verify(lab.ids[1]).isGood)
        try lab.remove(1, "digests")
        #expect(try await !lab.repository.verify(lab.ids[1]).isGood)
    }

    @Test func aDamagedManifestIsFound() async throws {
        let lab = try await TestRepository()
        try lab.flip(1, "json", at: 200)
        let report = try await lab.repository.verify(lab.ids[1])
        #expect(!report.problems.isEmpty)
        #expect(try await !lab.repository.verify(lab.ids[2]).isGood)
        #expect(try await lab.repository.verify(lab.ids[0]).isGood)
    }

    @Test func anExchangedImageIsFound() async throws {
        let lab = try await TestRepository()
        try lab.remove(1, "qcow2")
        try FileManager.default.copyItem(atPath: lab.path(0, "qcow2"), toPath: lab.path(1, "qcow2"))
        let report = try await lab.repository.verify(lab.ids[1])
        #expect(report.problems.contains { $0.description.contains("backing file") })
    }

    @Test func anIncrementOnAnExchangedParentTableIsFound() async throws {
        let lab = try await TestRepository()
        let other = try await TestRepository(variant: 1)
        try lab.remove(0, "digests")
        try FileManager.default.copyItem(
            atPath: other.path(0, "digests"), toPath: lab.path(0, "digests"))
        #expect(try await !lab.repository.verify(lab.ids[2]).isGood)
    }

    @Test func thePartsOfASubsetMakeTheWhole() async throws {
        let lab = try await TestRepository(lengthBytes: 5_000_000)
        var checked: UInt64 = 0
        for part in 1...3 as ClosedRange<UInt64> {
            let subset = try #require(VerifySubset(part: part, of: 3))
            let report = try await lab.repository.verify(lab.ids[0], subset: subset) { _, _ in }
            #expect(report.isGood)
            #expect(report.checkedBytes < 5_000_000)
            checked += report.checkedBytes
        }
        #expect(checked == 5_000_000)
        #expect(VerifySubset(part: 0, of: 3) == nil)
        #expect(VerifySubset(part: 4, of: 3) == nil)
    }

    @Test func aPointThatIsNotThereIsAnErrorAndNoReport() async throws {
        let lab = try await TestRepository()
        let id = try PointID()
        await expectError(.notFound, id.text) { _ = try await lab.repository.verify(id) }
    }

    @Test func aCancelledVerificationSaysSo() async throws {
        let lab = try await TestRepository()
        let task = Task {
            withUnsafeCurrentTask { $0?.cancel() }
            _ = try await lab.repository.verify(lab.ids[0])
        }
        await expectError(.cancelled) { try await task.value }
    }
}

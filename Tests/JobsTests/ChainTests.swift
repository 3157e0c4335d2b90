import BlockCore
import Catalog
import Repository
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Several chains of one volume, differentials, compressed points.
@Suite struct ChainTests {
    @Test func eachBitmapHasAChainOfItsOwn() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("chains")
        var newest: [String: Manifest] = [:]
        for round in 0..<4 {
            for name in round == 2 ? ["daily"] : ["daily", "weekly"] {
                try await lab.change(&random)
                let made = try await lab.makePoint(bitmap: name)
                // The second chain begins with a comparison: there is a whole point already.
                let parent = newest[name] ?? newest["daily"]
                #expect(made.parent?.point == parent?.point, "\(name), round \(round)")
                #expect(made.reason == (newest[name] != nil ? .bitmap : made.reason))
                newest[name] = made
                try await lab.expectCurrent(made.point)
            }
        }
        #expect(Set(lab.volume.bitmapStatuses().map(\.name)) == ["daily", "weekly"])
        // Without a name the backup takes a bitmap that continues a point here.
        #expect(try await lab.makePoint().parent?.point == newest["daily"]?.point)
    }

    @Test func aDifferentialStandsOnTheLastFullAndLeavesTheBitmapAsItWas() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("differential")
        try await lab.change(&random)
        let full = try await lab.makePoint(.differential)
        #expect(full.level == .full && full.reason == .first)
        var storedBefore: UInt64 = 0
        for _ in 0..<3 {
            try await lab.change(&random, count: 2)
            let made = try await lab.makePoint(.differential)
            #expect(made.level == .differential && made.reason == .bitmap)
            #expect(made.parent?.point == full.point)
            let records = made.extents.dataBytes + made.extents.zeroBytes
            #expect(records >= storedBefore)
            storedBefore = records
            #expect(lab.volume.bitmapStatuses()[0].continues?.pointID == full.point.text)
            try await lab.expectCurrent(made.point)
        }
        // An increment continues the full too, and then the bitmap goes with it.
        try await lab.change(&random, count: 2)
        let increment = try await lab.makePoint(.incremental)
        #expect(increment.parent?.point == full.point)
        try await lab.expectCurrent(increment.point)
        // From here on the bitmap does not tell what changed since the full.
        try await lab.change(&random, count: 2)
        let compared = try await lab.makePoint(.differential)
        #expect(compared.level == .differential && compared.reason == .bitmapMissing)
        #expect(compared.parent?.point == full.point)
        try await lab.expectCurrent(compared.point)
        #expect(lab.volume.bitmapStatuses()[0].continues?.pointID == increment.point.text)
        try await lab.change(&random, count: 2)
        let last = try await lab.makePoint(.incremental)
        #expect(last.reason == .bitmap && last.parent?.point == increment.point)
        try await lab.expectCurrent(last.point)
    }

    /// What a comparison found is in the bitmap afterwards, and what was written meanwhile.
    @Test func aDifferentialWithoutATrustedBitmapStartsItAfreshFromTheFull() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("differential restart")
        try await lab.change(&random)
        let full = try await lab.makePoint()
        try await lab.distrust(lab.volume, "doubt")
        try await lab.change(&random)
        let compared = try await lab.makePoint(.differential)
        #expect(compared.reason == .bitmapInconsistent && compared.parent?.point == full.point)
        let status = try #require(lab.volume.bitmapStatuses().first)
        #expect(status.inconsistentReason == nil && status.isRecording)
        #expect(status.continues?.pointID == full.point.text)
        for _ in 0..<2 {
            try await lab.change(&random, count: 2)
            let next = try await lab.makePoint(.differential)
            #expect(next.reason == .bitmap && next.parent?.point == full.point)
            try await lab.expectCurrent(next.point)
        }
    }

    /// After a crash too a differential leaves its bitmap as it was.
    @Test func aDifferentialThatWasInterruptedAtItsEndIsSettled() async throws {
        let lab = try await BackupLab()
        var random = Seed.generator("differential settled")
        try await lab.change(&random)
        let full = try await lab.makePoint()
        try await lab.change(&random)
        // The freeze commits the bits ahead of itself and then itself; the end of the backup is next.
        lab.commits.fail(3)
        let result = try await lab.run(lab.backup(.differential))
        #expect(result.failures.count == 1 && lab.volume.frozenBitmaps().count == 1)
        try await lab.change(&random)
        let next = try await lab.makePoint(.differential)
        #expect(next.reason == .bitmap && next.parent?.point == full.point)
        try await lab.expectCurrent(next.point)
    }

    @Test func compressedPointsAreSmallerAndReadByQEMU() async throws {
        let lab = try await BackupLab(lengthBytes: 3_000_000)
        var random = Seed.generator("zstd")
        // A quarter of it is random, so that most but not all of it gets shorter.
        for index in 0..<40 {
            let bytes =
                random.bytes(16 << 10) + [UInt8](repeating: UInt8(index + 1), count: 48 << 10)
            try await lab.volume.write(at: UInt64(index) << 16, from: .holding(bytes))
        }
        try await lab.volume.write(at: 41 << 16, from: .holding(random.bytes(100_000)))
        let full = try await lab.makePoint(.full, compression: .zstd)
        #expect(full.image.compression == .zstd)
        #expect(full.image.storedBytes < full.extents.dataBytes / 2)
        try await lab.change(&random)
        let next = try await lab.makePoint(compression: .zstd)
        try await lab.change(&random)
        let plain = try await lab.makePoint()
        #expect(plain.image.compression == nil)
        try await lab.expectCurrent(plain.point)
        for manifest in [full, next, plain] {
            let path = try lab.path(of: manifest, "qcow2")
            try Tool.check(["qemu-img", "check", path])
            let raw = lab.directory.path("converted")
            try Tool.check(["qemu-img", "convert", "-O", "raw", path, raw])
            let bytes = try readFile(raw).prefix(Int(lab.volume.lengthBytes))
            let content = try await lab.content(of: manifest.point)
            #expect(Array(bytes) == content)
            try HostDirectory.removeFile(raw)
            #expect(try await lab.repository.repository.verify(manifest.point).isGood)
        }
    }
}

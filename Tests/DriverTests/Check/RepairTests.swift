import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// What a repair leaves is clean to `qemu-img check`, and has the content that it had.
@Suite struct RepairTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    /// Refcounts and flags at random: everything comes right again, the content untouched.
    @Test func refcountsAndFlagsAreRebuilt() throws {
        for kind in QemuImageKind.sample(12, for: "repair") {
            var random = Seed.generator("repair \(kind)")
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            try kind.fill(image, using: &random)
            let whole = directory.path("whole.raw")
            try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, whole])
            try RefcountScrambler(path: image).scramble(using: &random)
            let before = try Qcow2Check.run(path: image)
            let report = try Qcow2Check.repair(path: image, .all)
            #expect(report.verdict == .clean, "\(kind): \(report.findings)")
            #expect(report.leaksFixedCount == before.leakCount)
            #expect(report.corruptionsFixedCount == before.corruptionCount)
            let judge = try QemuCheck(image)
            #expect(judge.status == 0, "\(kind): \(judge.errors)")
            try Tool.check(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, whole])
            if kind.hasSnapshots && !kind.hasBitmaps {
                try Tool.check(["qemu-img", "snapshot", "-a", "first", image])
                #expect(try QemuCheck(image).status == 0, "\(kind)")
            }
        }
    }

    /// Any damage: a repair ends, says truly whether the image is clean, and frees nothing that
    /// something refers to.
    @Test func repairsOfAnyDamageEndAndTellTheTruth() throws {
        var cleaned = 0
        for kind in QemuImageKind.sample(7, for: "any damage") {
            var random = Seed.generator("any damage \(kind)")
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            try kind.fill(image, using: &random)
            let whole = try readFile(image)
            let damage = try ImageDamage(image)
            for _ in 0..<7 {
                var bytes = whole
                let what = damage.apply(to: &bytes, using: &random)
                try writeFile(image, bytes)
                let report: Qcow2CheckReport
                do {
                    report = try Qcow2Check.repair(path: image, .all)
                } catch {
                    #expect([.corrupt, .unsupported, .invalid].contains(error.kind), "\(error)")
                    continue
                }
                if report.verdict == .clean {
                    let judge = try QemuCheck(image)
                    cleaned += 1
                    #expect(judge.status == 0, "\(kind): \(what): \(judge.errors.prefix(600))")
                    #expect(!(report.isMarkedDirty || report.isMarkedCorrupt))
                }
                let again = try Qcow2Check.repair(path: image, .all)
                #expect(again.verdict == report.verdict, "\(kind): \(what): \(again.findings)")
            }
        }
        #expect(cleaned > 10)
    }

    @Test func leaksAreFreedInPlace() async throws {
        try Qcow2Device.create(path: image, lengthBytes: 8 << 20, clusterBytes: 4096)
        do {
            // Dropped without a close, it leaks its reserve.
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            try await device.put([UInt8](repeating: 3, count: 100_000), at: 4096)
        }
        let header = try Qcow2Device.readHeader(path: image)
        #expect(try QemuCheck(image).status == 3)
        let report = try Qcow2Check.repair(path: image, .leaks)
        #expect(report.verdict == .clean && report.leaksFixedCount > 0)
        #expect(try QemuCheck(image).status == 0)
        #expect(try Qcow2Device.readHeader(path: image) == header)
    }

    @Test func leaksAreKeptWhileSomeMetadataCannotBeFollowed() throws {
        var kind = QemuImageKind()
        kind.clusterBytes = 4096
        try kind.create(image, lengthBytes: 8 << 20)
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 2m", "-c", "write -P 8 4m 2m", image,
        ])
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        let file = try HostFile(path: image, access: .readWrite)
        let entry = try file.readNumbers(1, at: header.l1Offset)[0]
        // A bit flips in the first L1 entry: what the table maps can no longer be found.
        try file.writeNumbers([entry ^ 1 << 40], at: header.l1Offset)
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .corrupt && !report.isComplete && report.leakCount > 0)
        // Somebody who knows better flips it back, and nothing is lost.
        try file.writeNumbers([entry], at: header.l1Offset)
        let read = try Tool.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 2m", image])
        #expect(read.status == 0 && !read.output.contains("Pattern"), "\(read)")
    }

    /// QEMU keeps refcounts lazily and is killed: the next one who writes repairs first.
    @Test func anImageThatQemuWasKilledOnIsRepairedForWriting() async throws {
        for bits in [1, 16, 64] {
            var kind = QemuImageKind()
            kind.hasLazyRefcounts = true
            kind.refcountBits = bits
            let image = directory.path("\(bits).qcow2")
            try kind.create(image, lengthBytes: 16 << 20)
            let killed = try Tool.run([
                "qemu-io", "-f", "qcow2", "-c", "write -P 5 1m 3m", "-c", "flush", "-c",
                "sigraise 9",
                image,
            ])
            #expect(killed.status == -9)
            let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
            #expect(header.isDirty)
            #expect(try Qcow2Check.run(path: image).verdict == .corrupt)
            #expect(throws: BlockError.self) {
                try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            }
            try Qcow2Check.repairIfDirty(path: image)
            #expect(try QemuCheck(image).status == 0)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            #expect(try await device.bytes(at: 1 << 20, 3 << 20).allSatisfy { $0 == 5 })
            try await device.put([UInt8](repeating: 6, count: 70_000), at: 0)
            try await device.close()
            #expect(try QemuCheck(image).status == 0)
        }
    }

    @Test func anImageThatIsNotDirtyIsNotTouchedAtOpening() throws {
        var random = Seed.generator("not dirty")
        try QemuImageKind().fill(image, using: &random)
        let before = try readFile(image)
        try Qcow2Check.repairIfDirty(path: image)
        #expect(try readFile(image) == before)
    }

    @Test func theMarkForCorruptGoesWhenNothingIsWrongAndStaysElse() throws {
        try QemuImageKind().create(image, lengthBytes: 1 << 20)
        let whole = try readFile(image)
        var marked = whole
        marked[Qcow2Layout.Field.incompatible + 7] |= 2
        try writeFile(image, marked)
        #expect(try Qcow2Check.run(path: image).isMarkedCorrupt)
        #expect(!(try Qcow2Check.repair(path: image, .leaks)).isMarkedCorrupt)
        #expect(try readFile(image) == whole)

        // An L2 table beyond the end of the file: nothing can put that right.
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        marked.withUnsafeMutableBytes {
            $0.storeBigEndian(Qcow2Layout.copied | 1 << 30, at: Int(header.l1Offset))
        }
        try writeFile(image, marked)
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .corrupt && report.isMarkedCorrupt)
    }

    @Test func moreReferencesThanRefcountsCanCountAreLeftAlone() throws {
        var kind = QemuImageKind()
        kind.refcountBits = 1
        try kind.create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", image])
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        try file.writeNumbers(
            Array(repeating: try file.readNumbers(1, at: l2)[0], count: 2), at: l2)
        let before = try readFile(image)
        #expect(try Qcow2Check.run(path: image).kinds.contains(.refcountOverflow))
        #expect(throws: BlockError.self) { try Qcow2Check.repair(path: image, .all) }
        #expect(try readFile(image) == before)
    }
}

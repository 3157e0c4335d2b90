import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// The checker agrees with `qemu-img check`: on whole images to the last number, on damaged ones
/// about whether they are clean, leak or are corrupt.
@Suite struct CheckInteropTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func imagesOfQemuAreCleanWithTheSameNumbers() throws {
        for kind in QemuImageKind.sample(25, for: "clean images") {
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            var random = Seed.generator("clean \(kind)")
            try kind.fill(image, using: &random)
            let report = try Qcow2Check.run(path: image)
            let judge = try QemuCheck(image)
            #expect(judge.status == 0, "\(kind): \(judge.errors)")
            #expect(report.verdict == .clean && report.isComplete, "\(kind): \(report.findings)")
            #expect(report.clusterCount == judge["total-clusters"], "\(kind)")
            #expect(report.allocatedCount == judge["allocated-clusters"], "\(kind)")
            #expect(report.compressedCount == judge["compressed-clusters"], "\(kind)")
            #expect(report.fragmentedCount == judge["fragmented-clusters"], "\(kind)")
            #expect(report.imageEndBytes == judge["image-end-offset"], "\(kind)")
        }
    }

    @Test func leaksAreCountedAsQemuCountsThem() throws {
        var random = Seed.generator("leaks")
        try QemuImageKind().fill(image, using: &random)
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        let table = try number(at: header.refcountTableOffset)
        // Clusters that nothing uses, in the middle and at the end of what the block counts.
        var bytes = try readFile(image)
        let free = (0..<bytes.count / 65536).filter {
            bytes[Int(table) + $0 * 2] == 0 && bytes[Int(table) + $0 * 2 + 1] == 0
        }
        for cluster in free.prefix(3) { bytes[Int(table) + cluster * 2 + 1] = 2 }
        // One that is used counts twice.
        bytes[Int(table) + 1] = 2
        try writeFile(image, bytes)
        let report = try Qcow2Check.run(path: image)
        let judge = try QemuCheck(image)
        #expect(report.verdict == .leaks && judge.status == 3, "\(report.findings)")
        #expect(report.leakCount == judge["leaks"] && report.leakCount > 0)
    }

    /// Seeded damage to the metadata: never a crash, never a hang, and the same answer.
    @Test func damagedImagesAreJudgedAlike() throws {
        var seen: [Qcow2CheckReport.Verdict?: Int] = [:]
        for kind in QemuImageKind.sample(14, for: "damage") {
            var random = Seed.generator("damage \(kind)")
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            try kind.fill(image, using: &random)
            let whole = try readFile(image)
            let damage = try ImageDamage(image)
            for _ in 0..<14 {
                var bytes = whole
                let what = damage.apply(to: &bytes, using: &random)
                try writeFile(image, bytes)
                let verdict = try compareVerdicts(image, "\(kind): \(what)")
                seen[verdict, default: 0] += 1
            }
        }
        // The damage is of all sorts, or this tests nothing.
        #expect(seen[.corrupt, default: 0] > 20 && seen[.leaks, default: 0] > 0, "\(seen)")
    }

    /// A hostile header or table costs time in proportion to the file, and memory within the bound.
    @Test(.timeLimit(.minutes(1)))
    func tablesThatPointAtEachOtherEndTheWalk() throws {
        var random = Seed.generator("loops")
        var kind = QemuImageKind()
        kind.clusterBytes = 512
        try kind.fill(image, using: &random)
        var bytes = try readFile(image)
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        // Every L1 entry names the L1 table itself as its L2 table.
        for index in 0..<Int(header.l1Count) {
            bytes.withUnsafeMutableBytes {
                $0.storeBigEndian(header.l1Offset, at: Int(header.l1Offset) + index * 8)
            }
        }
        try writeFile(image, bytes)
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .corrupt && report.kinds.contains(.overlap))
    }

    @Test func anOverlapThatItsRefcountAdmitsIsCorruptHereAndCleanToQemu() throws {
        try QemuImageKind().create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", image])
        var bytes = try readFile(image)
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        let l2 = Int(try number(at: header.l1Offset) & Qcow2Layout.offsetMask)
        let block = Int(try number(at: header.refcountTableOffset))
        // A second guest cluster has its data in the L1 table, and the refcount says so.
        bytes.withUnsafeMutableBytes { $0.storeBigEndian(header.l1Offset, at: l2 + 8) }
        bytes[block + Int(header.l1Offset >> 16) * 2 + 1] = 2
        try writeFile(image, bytes)
        #expect(try QemuCheck(image).status == 0)
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .corrupt && report.kinds == [.overlap])
    }

    @Test func zeroesInVersion2AreCorruptHereAndCleanToQemu() throws {
        var kind = QemuImageKind()
        kind.version = 2
        try kind.create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", image])
        var bytes = try readFile(image)
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        let l2 = Int(try number(at: header.l1Offset) & Qcow2Layout.offsetMask)
        bytes[l2 + 15] = 1
        try writeFile(image, bytes)
        #expect(try QemuCheck(image).status == 0)
        #expect(try Qcow2Check.run(path: image).kinds == [.version])
        // QEMU notices when the cluster is read.
        let read = try Tool.run(["qemu-io", "-f", "qcow2", "-c", "read 64k 64k", image])
        #expect(read.output.contains("failed") || read.errors.contains("failed"))
    }

    /// Both judge `path`; returns our verdict, nil where the header was refused.
    private func compareVerdicts(
        _ path: String, _ what: String
    ) throws -> Qcow2CheckReport.Verdict? {
        let judge = try QemuCheck(path)
        let report: Qcow2CheckReport
        do {
            report = try Qcow2Check.run(path: path)
        } catch {
            #expect(judge.status == 1, "\(what): refused: \(error); QEMU: \(judge.status)")
            return nil
        }
        // What QEMU's check lets pass: of the first two, tests above say why; the third stops QEMU
        // where it reads.
        let onlyHere: Set<Qcow2Finding.Kind> = [.overlap, .version, .dataFile]
        let rest = report.kinds.subtracting(onlyHere)
        let agrees =
            switch judge.status {
            case 0: rest.isEmpty
            case 3: rest == [.leak]
            case 2: report.verdict == .corrupt
            // It could not be opened, some refcounts could not be read, or there was no end of it.
            // Bitmaps that contradict the image or each other are none to us, and stop QEMU.
            default:
                report.verdict == .corrupt || judge.errors.contains("itmap")
            }
        #expect(
            agrees,
            "\(what): \(report.verdict) \(report.findings.prefix(5)); QEMU \(judge.status): \(judge.errors.prefix(600))"
        )
        return report.verdict
    }

    private func number(at offset: UInt64) throws -> UInt64 {
        try HostFile(path: image, access: .readOnly).readNumbers(1, at: offset)[0]
    }
}

import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Single damages of every kind: what the checker calls them, and what a repair makes of them.
@Suite struct CorruptImageTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func anL1EntryThatNamesTheL1TableIsAnOverlap() throws {
        let parts = try make()
        try put(Qcow2Layout.copied | parts.header.l1Offset, at: parts.header.l1Offset)
        try expect([.overlap, .refcountTooLow, .leak], qemu: 2)
        // Nothing can say what the entry should be; the image stays marked.
        try mark(Qcow2Layout.Incompatible.corrupt)
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .corrupt && report.isMarkedCorrupt)
    }

    @Test func dataInARefcountBlockIsRepairedByMovingTheRefcounts() throws {
        let parts = try make()
        try put(Qcow2Layout.copied | parts.block, at: parts.l2 + 8)
        try mark(Qcow2Layout.Incompatible.corrupt)
        try expect([.overlap, .refcountTooLow], qemu: 2)
        try expectRepaired()
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        #expect(header.refcountTableOffset != parts.header.refcountTableOffset)
        #expect(!header.isCorrupt)
        // Both take writes now.
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 256k", image])
        #expect(try QemuCheck(image).status == 0)
    }

    @Test func anL2TableOfASnapshotThatIsDataAsWellIsAnOverlap() throws {
        let parts = try make()
        try Tool.check(["qemu-img", "snapshot", "-c", "s", image])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 2 0 512", image])
        let l2 = try number(at: parts.header.l1Offset) & Qcow2Layout.offsetMask
        try #require(l2 != parts.l2)
        try put(Qcow2Layout.copied | parts.l2, at: l2 + 16)
        let report = try Qcow2Check.run(path: image)
        #expect(report.kinds.isSuperset(of: [.overlap, .refcountTooLow]))
        #expect(try QemuCheck(image).status == 2)
        // The refcounts come right, so that nobody writes in place; the overlap stays, and is said.
        let repaired = try Qcow2Check.repair(path: image, .all)
        #expect(repaired.kinds == [.overlap])
        #expect(try QemuCheck(image).status == 0)
    }

    @Test func reservedBitsAreClearedAndTheDataStays() throws {
        let parts = try make()
        try put(try number(at: parts.header.l1Offset) | 1 << 60, at: parts.header.l1Offset)
        try put(try number(at: parts.l2) | 1 << 57 | 4, at: parts.l2)
        try expect([.reservedBits], qemu: 2)
        try expectRepaired()
    }

    @Test func zeroesWithStorageThatIsNotAtAClustersStartLoseTheStorage() throws {
        let parts = try make()
        try put(Qcow2Layout.copied | parts.block + 512 | Qcow2Layout.zero, at: parts.l2 + 24)
        try expect([.unaligned, .refcountTooLow, .overlap], qemu: 2)
        try expectRepaired()
        #expect(try number(at: parts.l2 + 24) == Qcow2Layout.zero)
    }

    @Test func dataThatIsNotAtAClustersStartCannotBeRepaired() throws {
        let parts = try make()
        let entry = try number(at: parts.l2)
        try put(entry + 512, at: parts.l2)
        let report = try Qcow2Check.run(path: image)
        #expect(report.kinds.contains(.unaligned))
        #expect(try Qcow2Check.repair(path: image, .all).kinds.contains(.unaligned))
        #expect(try QemuCheck(image).status == 2)
    }

    @Test func aClusterAtAHugeOffsetIsOutsideTheFile() throws {
        let parts = try make(clusterBytes: 512)
        for offset in [0x80_0000_0000_0000, 0xFF_FFFF_FFFF_FE00, 1 << 40] as [UInt64] {
            try put(Qcow2Layout.copied | offset, at: parts.l2)
            let report = try Qcow2Check.run(path: image)
            #expect(report.kinds.isSuperset(of: [.outsideFile]), "\(report.findings)")
            #expect(try QemuCheck(image).status == 2)
            let repaired = try Qcow2Check.repair(path: image, .all)
            #expect(repaired.kinds.contains(.outsideFile))
        }
    }

    @Test func compressedClustersThatReachTooFarAreCounted() async throws {
        var kind = QemuImageKind()
        kind.clusterBytes = 2 << 20
        try kind.create(image, lengthBytes: 8 << 20)
        try Tool.check([
            "qemu-io", "-f", "qcow2", "-c", "write -c -P 17 0 2m", "-c", "write -c -P 18 2m 2m",
            "-c", "write -P 34 4m 4m", image,
        ])
        let parts = try parts()
        // Fewer sectors than the data has: nothing for a checker, and an error for who reads.
        let entry = try number(at: parts.l2)
        let sectors = UInt64(1) << 49
        try put(entry - sectors, at: parts.l2)
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
        let device = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        await #expect(throws: BlockError.self) { try await device.bytes(at: 0, 4096) }
        #expect(try await device.bytes(at: 2 << 20, 4096).allSatisfy { $0 == 18 })
        try await device.close()
        // As many as there can be: the data is read all the same, and more clusters are referred to.
        let most = (UInt64(1) << 13) - 1
        try put(entry & ~(most << 49) | most << 49, at: parts.l2)
        try put(try number(at: parts.l2 + 8) | most << 49, at: parts.l2 + 8)
        #expect(try QemuCheck(image).status == 2)
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .clean, "\(report.findings)")
        #expect(try QemuCheck(image).status == 0)
        let again = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        #expect(try await again.bytes(at: 0, 2 << 20).allSatisfy { $0 == 17 })
        #expect(try await again.bytes(at: 4 << 20, 4 << 20).allSatisfy { $0 == 34 })
        try await again.close()
    }

    /// Fields beyond every limit: refused by a message, at once, whatever they would allocate.
    @Test(.timeLimit(.minutes(1)))
    func numbersBeyondTheLimitsAreRefused() throws {
        _ = try make()
        let whole = try readFile(image)
        typealias Field = Qcow2Layout.Field
        for (field, bytes) in [
            (Field.headerBytes, [0xFF, 0xFF, 0xFF, 0xFF]), (Field.headerBytes, [0x7F, 0, 0, 0]),
            (Field.refcountTableClusters, [0xFF, 0xFF, 0xFF, 0xFF]),
            (Field.refcountTableClusters, [0, 2, 0, 1]),
            (Field.refcountTableOffset, [0x12, 0x34, 0x56, 0x78, 0x90, 0xAB, 0xCD, 0xEF]),
            (Field.refcountTableOffset, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0]),
            (Field.l1Count, [0xFF, 0xFF, 0xFF, 0xFF]), (Field.l1Count, [0x7F, 0, 0, 0]),
            (Field.l1Count, [0, 0, 0, 0]),
            (Field.l1Offset, [0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0]),
            (Field.l1Offset, [0x12, 0x34, 0x56, 0x78, 0x90, 0xAB, 0xCD, 0xEF]),
            (Field.backingOffset, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
            (Field.backingOffset, [0, 0, 0, 0, 0, 0, 0x10, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
            (Field.size, [0x7F, 0, 0, 0, 0, 0, 0, 0]),
        ] as [(Int, [UInt8])] {
            var changed = whole
            changed.replaceSubrange(field..<field + bytes.count, with: bytes)
            try writeFile(image, changed)
            #expect(throws: BlockError.self, "\(field) \(bytes)") {
                try Qcow2Check.run(path: image)
            }
            #expect(throws: BlockError.self, "\(field) \(bytes)") { try Qcow2Info(path: image) }
            #expect(throws: BlockError.self, "\(field) \(bytes)") {
                try Qcow2Device.open(path: image, readOnly: true, backing: nil)
            }
        }
        for count in [0xFFFF_FFFF, 0x7FFF_FFFF, 65537] as [UInt32] {
            var changed = whole
            changed.withUnsafeMutableBytes { $0.storeBigEndian(count, at: Field.snapshotCount) }
            try writeFile(image, changed)
            #expect(try Qcow2Check.run(path: image).kinds.contains(.snapshotTable))
            #expect(try !Qcow2Info(path: image).problems.isEmpty)
        }
    }

    @Test func compressionTypeAndFeatureBitMustAgree() throws {
        for (type, bit) in [("zlib", 0), ("zstd", 8)] as [(String, UInt64)] {
            var kind = QemuImageKind()
            kind.compression = type
            let image = directory.path("\(type).qcow2")
            try kind.create(image, lengthBytes: 1 << 20)
            let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
            #expect(header.incompatible == bit && header.compressionType == (bit == 0 ? 0 : 1))
            var bytes = try readFile(image)
            bytes[Qcow2Layout.Field.incompatible + 7] ^= 8
            try writeFile(image, bytes)
            #expect(throws: BlockError.self) { try Qcow2Check.run(path: image) }
            #expect(throws: BlockError.self) {
                try Qcow2Device.open(path: image, readOnly: true, backing: nil)
            }
        }
    }

    @Test func unknownFeaturesAreRefusedOrClearedByTheirClass() async throws {
        _ = try make()
        let whole = try readFile(image)
        var changed = whole
        changed[Qcow2Layout.Field.incompatible] |= 0x80
        try writeFile(image, changed)
        let error = #expect(throws: BlockError.self) { try Qcow2Check.run(path: image) }
        #expect(error?.kind == .unsupported)
        // A compatible feature is nobody's concern; an autoclear one goes when something is written.
        changed = whole
        changed[Qcow2Layout.Field.compatible] |= 0x40
        changed[Qcow2Layout.Field.autoclear] |= 0x80
        try writeFile(image, changed)
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
        #expect(try readFile(image) == changed)
        // The header's cluster counts twice.
        try put(0x0002_0001_0001_0001, at: try parts().block)
        #expect(try Qcow2Check.repair(path: image, .all).verdict == .clean)
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        #expect(header.autoclear == 0 && header.compatible == 1 << 62)
    }

    /// Whatever is written to the image or repaired in it, extensions that mean nothing here stay.
    @Test func headerExtensionsThatAreUnknownSurvive() async throws {
        let parts = try make()
        var bytes = try readFile(image)
        let content = Array("what somebody else keeps here".utf8)
        let end = Int(bytes[100...103].reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
        // In front of what is there: the first byte of the extensions is the end of the header.
        let old = Array(bytes[end..<end + 1024])
        var new = [UInt8](repeating: 0, count: 8)
        new.withUnsafeMutableBytes {
            $0.storeBigEndian(UInt32(0x1234_5678), at: 0)
            $0.storeBigEndian(UInt32(content.count), at: 4)
        }
        new += content + [UInt8](repeating: 0, count: (8 - content.count % 8) % 8) + old
        bytes.replaceSubrange(end..<end + new.count, with: new)
        try writeFile(image, bytes)
        #expect(try QemuCheck(image).status == 0)

        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put([UInt8](repeating: 8, count: 300_000), at: 1000)
        try await device.close()
        try put(0, at: parts.header.refcountTableOffset)
        #expect(try Qcow2Check.repair(path: image, .all).verdict == .clean)
        #expect(Array(try readFile(image)[end..<end + new.count]) == new)
        #expect(try QemuCheck(image).status == 0)
    }

    // MARK: - The image under test

    private struct Parts {
        let header: StoredHeader
        let l2: UInt64
        let block: UInt64
    }

    /// An image with data in its first clusters.
    private func make(clusterBytes: Int = 65536) throws -> Parts {
        var kind = QemuImageKind()
        kind.clusterBytes = clusterBytes
        try kind.create(image, lengthBytes: 4 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 \(clusterBytes)", image])
        return try parts()
    }

    private func parts() throws -> Parts {
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        return Parts(
            header: header, l2: try number(at: header.l1Offset) & Qcow2Layout.offsetMask,
            block: try number(at: header.refcountTableOffset))
    }

    private func expect(_ kinds: Set<Qcow2Finding.Kind>, qemu status: Int32) throws {
        let report = try Qcow2Check.run(path: image)
        #expect(report.kinds == kinds, "\(report.findings)")
        #expect(try QemuCheck(image).status == status)
    }

    private func expectRepaired() throws {
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .clean, "\(report.findings)")
        let judge = try QemuCheck(image)
        #expect(judge.status == 0, "\(judge.errors)")
        let read = try Tool.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 1 0 512", image])
        #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
    }

    private func number(at offset: UInt64) throws -> UInt64 {
        try HostFile(path: image, access: .readOnly).readNumbers(1, at: offset)[0]
    }

    private func put(_ number: UInt64, at offset: UInt64) throws {
        try HostFile(path: image, access: .readWrite).writeNumbers([number], at: offset)
    }

    private func mark(_ bit: UInt64) throws {
        let field = UInt64(Qcow2Layout.Field.incompatible)
        try put(try number(at: field) | bit, at: field)
    }
}

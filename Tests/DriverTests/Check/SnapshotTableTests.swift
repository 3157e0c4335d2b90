import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Internal snapshots: their tables are checked and repaired, and never harmed.
@Suite struct SnapshotTableTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func aSnapshotMayHaveASmallerOrLargerL1Table() throws {
        for (before, after) in [("8m", "40m"), ("40m", "8m")] {
            let image = directory.path("\(before).qcow2")
            try Tool.check([
                "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=1024", image, before,
            ])
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4m", image])
            try Tool.check(["qemu-img", "snapshot", "-c", "small", image])
            let shrink = after == "8m" ? ["--shrink"] : []
            try Tool.check(
                ["qemu-img", "resize", "-q", "-f", "qcow2"] + shrink + [image, after])
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 2 2m 4m", image])
            let report = try Qcow2Check.run(path: image)
            #expect(report.verdict == .clean, "\(report.findings)")
            #expect(try Qcow2Info(path: image).snapshots.map(\.name) == ["small"])
            #expect(try Qcow2Info(path: image).snapshots[0].diskBytes != report.clusterCount << 10)
        }
    }

    @Test func entriesThatVersion3WantsLongerAreCompleted() throws {
        try makeSnapshots(version: 2)
        // A version 2 image whose first entry says nothing beyond the fixed part becomes version 3.
        try changeTable { table in
            table.snapshots.enumerated().map { index, snapshot in
                index == 0 ? Self.entry(snapshot, extra: []) : snapshot.stored
            }
        }
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
        var bytes = try readFile(image)
        bytes[Qcow2Layout.Field.version + 3] = 3
        bytes[Qcow2Layout.Field.headerBytes + 3] = 104
        bytes[Qcow2Layout.Field.refcountOrder + 3] = 4
        try writeFile(image, bytes)
        #expect(try Qcow2Check.run(path: image).kinds == [.snapshotTable])
        #expect(try QemuCheck(image).status == 2)
        try expectRepaired(snapshots: ["one", "two", "three"])
    }

    @Test func extraDataThatIsUnknownIsKeptUpToTheLimit() throws {
        try makeSnapshots(version: 3)
        try changeTable { table in
            let extra = Array(table.snapshots[0].stored[40..<56]) + Array("important".utf8)
            return table.snapshots.enumerated().map { index, snapshot in
                // The middle one has a little, which stays; the last has more than anybody reads.
                switch index {
                case 1: Self.entry(snapshot, extra: extra)
                case 2: Self.entry(snapshot, extra: extra + [UInt8](repeating: 7, count: 2000))
                default: snapshot.stored
                }
            }
        }
        #expect(try Qcow2Check.run(path: image).kinds.contains(.snapshotTable))
        #expect(try QemuCheck(image).status != 0)
        try expectRepaired(snapshots: ["one", "two", "three"])
        let file = try HostFile(path: image, access: .readOnly)
        let table = try StoredSnapshots(file: file, header: try StoredHeader(file: file))
        #expect(table.snapshots.map(\.extraBytes).dropFirst() == [25, 1024])
        #expect(Array(table.snapshots[1].stored[56..<65]) == Array("important".utf8))
    }

    @Test func moreSnapshotsThanAllowedAreCutOff() throws {
        var kind = QemuImageKind()
        kind.version = 2
        try kind.create(image, lengthBytes: 1 << 20)
        let file = try HostFile(path: image, access: .readWrite)
        // Entries of nothing but zeroes are snapshots of nothing.
        let offset: UInt64 = 1 << 20
        try file.truncate(toBytes: offset + 40 * 70_000)
        try file.writeNumbers([70_000 << 32 | offset >> 32, offset << 32], at: 60)
        let repaired = try Qcow2Check.repair(path: image, .all)
        #expect(repaired.verdict == .clean, "\(repaired.findings)")
        #expect(repaired.corruptionsFixedCount > 0)
        #expect(try Qcow2Device.readHeader(path: image).snapshotCount == 65536)
        #expect(try QemuCheck(image).status == 0)
    }

    @Test func anL1TableOfASnapshotThatIsNowhereIsCorrupt() throws {
        for (field, value) in [(0, 0x40_0200), (0, 1 << 50), (8, 0x1000_0000 << 32)]
            as [(Int, UInt64)]
        {
            try makeSnapshots(version: 3)
            let file = try HostFile(path: image, access: .readWrite)
            let header = try StoredHeader(file: file)
            let place = header.snapshotOffset + UInt64(field)
            let old = try file.readNumbers(1, at: place)[0]
            try file.writeNumbers([field == 8 ? value | old & 0xFFFF_FFFF : value], at: place)
            let report = try Qcow2Check.run(path: image)
            #expect(report.verdict == .corrupt && !report.isComplete)
            #expect(try QemuCheck(image).status == 2)
            // What the snapshot had is not given away.
            let repaired = try Qcow2Check.repair(path: image, .all)
            #expect(repaired.verdict == .corrupt)
            try file.writeNumbers([old], at: place)
            #expect(try Qcow2Check.repair(path: image, .all).verdict == .clean)
            try Tool.check(["qemu-img", "snapshot", "-a", "one", image])
            #expect(try QemuCheck(image).status == 0)
        }
    }

    /// QEMU deletes a snapshot and cannot write while it frees the clusters.
    @Test func leaksOfASnapshotThatCouldNotBeDeletedAreFreed() throws {
        try QemuImageKind().create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 64k", image])
        try Tool.check(["qemu-img", "snapshot", "-c", "s", image])
        let rule = directory.path("blkdebug")
        try writeFile(rule, Array("[inject-error]\nevent = \"cluster_free\"\nerrno = \"5\"\n".utf8))
        _ = try Tool.run(["qemu-img", "snapshot", "-d", "s", "blkdebug:\(rule):\(image)"])
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .leaks && QemuCheck.leaks(image))
        #expect(try Qcow2Check.repair(path: image, .leaks).verdict == .clean)
        #expect(try QemuCheck(image).status == 0)
        #expect(try Qcow2Info(path: image).snapshots.isEmpty)
    }

    private func makeSnapshots(version: Int) throws {
        var kind = QemuImageKind()
        kind.version = version
        try kind.create(image, lengthBytes: 1 << 20)
        for (index, name) in ["one", "two", "three"].enumerated() {
            try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P \(index) 0 200k", image])
            try Tool.check(["qemu-img", "snapshot", "-c", name, image])
        }
    }

    /// Puts other entries into the snapshot table, which must stay in its cluster.
    private func changeTable(_ change: (StoredSnapshots) -> [[UInt8]]) throws {
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let table = try StoredSnapshots(file: file, header: header)
        var bytes: [UInt8] = []
        for entry in change(table) {
            bytes += [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8) + entry
        }
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: header.snapshotOffset, from: bytes)
        }
    }

    private func expectRepaired(snapshots: [String]) throws {
        let report = try Qcow2Check.repair(path: image, .all)
        #expect(report.verdict == .clean, "\(report.findings)")
        let judge = try QemuCheck(image)
        #expect(judge.status == 0, "\(judge.errors)")
        #expect(try Qcow2Info(path: image).snapshots.map(\.name) == snapshots)
        for (index, name) in snapshots.enumerated() {
            try Tool.check(["qemu-img", "snapshot", "-a", name, image])
            let read = try Tool.run([
                "qemu-io", "-r", "-f", "qcow2", "-c", "read -P \(index) 0 200k", image,
            ])
            #expect(read.status == 0 && !read.output.contains("failed"), "\(read)")
        }
        #expect(try QemuCheck(image).status == 0)
    }

    /// An entry like that of `snapshot`, with other extra data.
    private static func entry(_ snapshot: Qcow2Snapshot, extra: [UInt8]) -> [UInt8] {
        var fixed = Array(snapshot.stored[..<40])
        fixed.withUnsafeMutableBytes { $0.storeBigEndian(UInt32(extra.count), at: 36) }
        return fixed + extra + snapshot.stored[(40 + Int(snapshot.extraBytes))...]
    }
}

import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Images that are made, or worked on, to use up memory: what is kept for them has a bound.
@Suite struct Qcow2BoundsTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    /// Their L1 tables take 270 million clusters; a number for each would take 2 GiB.
    @Test(.timeLimit(.minutes(1)))
    func snapshotsWithTheLongestTablesTakeLittleMemory() async throws {
        try QemuImageKind.small.create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 64k", image])
        let file = try HostFile(path: image, access: .readWrite)
        let start = try file.sizeBytes().alignedUp(to: 512)
        let count = 4096
        let tables = (start + UInt64(count) * 64).alignedUp(to: 512)
        var bytes = [UInt8](repeating: 0, count: count * 56)
        bytes.withUnsafeMutableBytes { bytes in
            for index in 0..<count {
                bytes.storeBigEndian(tables + UInt64(index) << 25, at: index * 56)
                bytes.storeBigEndian(UInt32(4 << 20), at: index * 56 + 8)
                bytes.storeBigEndian(UInt32(16), at: index * 56 + 36)
            }
        }
        try file.write(at: start, from: BufferSlice.holding(bytes).readOnlyBytes)
        try file.truncate(toBytes: tables + UInt64(count) << 25)
        var fields = [UInt8](repeating: 0, count: 12)
        fields.withUnsafeMutableBytes {
            $0.storeBigEndian(UInt32(count), at: 0)
            $0.storeBigEndian(start, at: 4)
        }
        try file.write(
            at: UInt64(Qcow2Layout.Field.snapshotCount),
            from: BufferSlice.holding(fields).readOnlyBytes)

        // All of them are known: data in the middle of the last is refused.
        let header = try Qcow2Header(path: image)
        let l2 = try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        let middle = tables + UInt64(count - 1) << 25 + 1 << 24
        try file.writeNumbers([middle | Qcow2Layout.copied], at: l2)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        let error = await #expect(throws: BlockError.self) { try await device.put([1], at: 0) }
        #expect("\(error!)".contains("L1 table of a snapshot"), "\(error!)")
        #expect(try await device.bytes(at: 1024, 512) == [UInt8](repeating: 5, count: 512))
        try await device.close()
    }

    /// 800 thousand clusters of which each has 8192 references, in a file of 30 MiB.
    @Test(.timeLimit(.minutes(1)))
    func referencesByTheThousandToAllClustersAreRefusedByAMessage() throws {
        var kind = QemuImageKind()
        kind.clusterBytes = 2 << 20
        try kind.create(image, lengthBytes: 1 << 20)
        let file = try HostFile(path: image, access: .readWrite)
        let header = try StoredHeader(file: file)
        let clusterBytes = header.clusterBytes
        let tables: [UInt64] = [16, 17, 18]
        for (number, table) in tables.enumerated() {
            let first = UInt64(64 + number * header.l2EntryCount)
            try file.writeNumbers(
                (0..<UInt64(header.l2EntryCount)).map { (first + $0) * clusterBytes },
                at: table * clusterBytes)
        }
        let count = 8192 * tables.count
        try file.writeNumbers(
            (0..<count).map { tables[$0 % tables.count] * clusterBytes }, at: 8 * clusterBytes)
        try file.writeNumbers(
            [UInt64(count) << 32 | (8 * clusterBytes) >> 32],
            at: UInt64(Qcow2Layout.Field.l1Count))
        try file.writeNumbers([8 * clusterBytes], at: UInt64(Qcow2Layout.Field.l1Offset))
        try file.truncate(toBytes: UInt64(64 + tables.count * header.l2EntryCount) * clusterBytes)
        let error = #expect(throws: BlockError.self) { try Qcow2Check.run(path: image) }
        #expect(error?.kind == .unsupported && "\(error!)".contains("references"), "\(error!)")
    }

    /// Nobody asks for a flush.
    @Test func whatIsFreedWithoutAFlushHasABound() async throws {
        let most = ClusterAllocator.freedRunsMax
        let clusters = most * 2
        try Qcow2Device.create(
            path: image, lengthBytes: UInt64(clusters * 512), clusterBytes: 512)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        // Two clusters of each piece share a host cluster with no other piece.
        for start in stride(from: 0, to: clusters, by: 2) {
            try await device.writeCompressed(
                at: UInt64(start * 512), from: .holding([UInt8](repeating: 3, count: 1024)))
        }
        // From the end to the start, so that no two runs that are freed touch.
        for cluster in (0..<clusters).reversed() {
            try await device.put([UInt8](repeating: 4, count: 512), at: cluster * 512)
            let freed = try #require(device.allocator).freedRunCount
            #expect(freed <= most + 2, "\(freed) at \(cluster)")
            guard freed <= most + 2 else { break }
        }
        #expect(try await device.bytes(at: 0, 512) == [UInt8](repeating: 4, count: 512))
        try await device.close()
        #expect(try QemuCheck(image).status == 0)
    }
}

extension QemuImageKind {
    /// With the smallest clusters there are.
    fileprivate static var small: QemuImageKind {
        var kind = QemuImageKind()
        kind.clusterBytes = 512
        return kind
    }
}

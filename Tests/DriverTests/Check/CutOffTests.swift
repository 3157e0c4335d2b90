import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Files that were cut off: what is lost is never taken for zeroes, nor its place for free space.
@Suite struct CutOffTests {
    private let directory: TemporaryDirectory
    private let image: String
    private let clusterBytes: UInt64 = 4096

    /// An image of 1 MiB, the first half of it data, of which the end is cut off.
    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
        var kind = QemuImageKind()
        kind.clusterBytes = Int(clusterBytes)
        try kind.create(image, lengthBytes: 1 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 5 0 512k", image])
        let file = try HostFile(path: image, access: .readWrite)
        try file.truncate(toBytes: 100 * clusterBytes)
    }

    @Test func refcountsAreNotRebuiltWhereLostDataWas() throws {
        // The refcount of the L2 table is lost as well, so that all must be written anew.
        let header = try StoredHeader(file: HostFile(path: image, access: .readOnly))
        let block = try number(at: header.refcountTableOffset)
        let l2 = try number(at: header.l1Offset) & Qcow2Layout.offsetMask
        var bytes = try readFile(image)
        bytes[Int(block + l2 / clusterBytes * 2) + 1] = 0
        try writeFile(image, bytes)
        #expect(
            try Qcow2Check.run(path: image).kinds.isSuperset(of: [.outsideFile, .refcountTooLow]))
        let error = #expect(throws: BlockError.self) { try Qcow2Check.repair(path: image, .all) }
        #expect(error?.kind == .corrupt && "\(error!)".contains("cut off"), "\(error!)")
        #expect(try readFile(image) == bytes)
    }

    @Test func aSnapshotTableIsNotRenewedWhereLostDataWas() throws {
        // A name that is longer than the format allows has the table written anew.
        var bytes = try readFile(image)
        let table =
            [UInt8](repeating: 0, count: 36) + [0, 0, 8, 0] + [UInt8](repeating: 0, count: 4056)
        bytes.replaceSubrange((99 * 4096)..<(100 * 4096), with: table)
        bytes.withUnsafeMutableBytes {
            $0.storeBigEndian(UInt32(1), at: Qcow2Layout.Field.snapshotCount)
            $0.storeBigEndian(99 * clusterBytes, at: Qcow2Layout.Field.snapshotOffset)
        }
        try writeFile(image, bytes)
        #expect(try Qcow2Check.run(path: image).kinds.contains(.snapshotTable))
        let error = #expect(throws: BlockError.self) { try Qcow2Check.repair(path: image, .all) }
        #expect(error?.kind == .corrupt && "\(error!)".contains("cut off"), "\(error!)")
        #expect(try readFile(image) == bytes)
    }

    @Test func whatALostPieceHeldIsNoZeroesForAWriter() async throws {
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        // The file grows over the place that was lost.
        try await device.put([UInt8](repeating: 6, count: 4096), at: 700 << 10)
        #expect(try HostFile(path: image, access: .readOnly).sizeBytes() > 140 * clusterBytes)
        #expect(try await device.bytes(at: 0, 4096) == [UInt8](repeating: 5, count: 4096))
        await expect(.corrupt) { _ = try await device.bytes(at: 500 << 10, 4096) }
        await expect(.corrupt) { try await device.put([1], at: 500 << 10) }
        try await device.close()
        #expect(try Qcow2Header(path: image).incompatible & Qcow2Layout.Incompatible.corrupt != 0)
    }

    private func number(at offset: UInt64) throws -> UInt64 {
        try HostFile(path: image, access: .readOnly).readNumbers(1, at: offset)[0]
    }
}

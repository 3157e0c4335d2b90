import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Images that contradict themselves: found out and refused before anything is written over, and
/// marked, so that others keep off them as well.
@Suite struct Qcow2CorruptionTests {
    private let directory: TemporaryDirectory
    private let image: String
    private let header: Qcow2Header
    /// The L2 table of the image's first clusters, and the first refcount block.
    private let l2Offset: UInt64
    private let blockOffset: UInt64

    /// An image of 1 MiB with clusters of 4 KiB, the first half of it data, and a snapshot.
    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "1m",
        ])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 512k", image])
        try Tool.check(["qemu-img", "snapshot", "-c", "before", image])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -P 2 0 512k", image])
        header = try Qcow2Header(path: image)
        let file = try HostFile(path: image, access: .readOnly)
        l2Offset =
            try file.readNumbers(1, at: header.l1Offset)[0] & Qcow2Layout.offsetMask
        blockOffset = try file.readNumbers(1, at: header.refcountTableOffset)[0]
    }

    @Test func dataOnTopOfMetadataIsRefusedAndTheImageMarked() async throws {
        let snapshots = try SnapshotTable(
            file: HostFile(path: image, access: .readOnly), header: header)
        for (name, offset) in [
            ("L1 table", header.l1Offset), ("refcount table", header.refcountTableOffset),
            ("refcount blocks", blockOffset), ("L2 tables", l2Offset),
            ("snapshot table", header.snapshotOffset),
            ("L1 table of a snapshot", snapshots.snapshots[0].l1Offset),
        ] {
            try await expectRefusal(name, entry: offset | Qcow2Layout.copied)
        }
    }

    @Test func entriesThatNoWriterMakesAreRefusedAndTheImageMarked() async throws {
        let host = try HostFile(path: image, access: .readOnly)
            .readNumbers(1, at: l2Offset)[0]
        try await expectRefusal("aligned", entry: host + 512)
        try await expectRefusal("reserved", entry: host | 4)
        try await expectRefusal("reserved", entry: host | 1 << 58)
        try await expectRefusal("beyond the end", entry: 1 << 40 | Qcow2Layout.copied)
        try await expectRefusal(
            "beyond the end", entry: Qcow2Layout.compressed | 1 << 40)
    }

    @Test func tablesOnTopOfOthersAreRefusedAndTheImageMarked() async throws {
        for (name, offset) in [
            ("L1 table", header.l1Offset), ("refcount table", header.refcountTableOffset),
            ("refcount blocks", blockOffset), ("snapshot table", header.snapshotOffset),
        ] {
            try await expectRefusal(name, word: offset | Qcow2Layout.copied, at: header.l1Offset)
        }
        for word in [l2Offset + 512, l2Offset | 1, l2Offset | 1 << 60, 1 << 40] as [UInt64] {
            try await expectRefusal(
                "L1 entry", word: word | Qcow2Layout.copied, at: header.l1Offset)
        }
    }

    @Test func twoGuestRangesWithOneTableAreRefused() async throws {
        // A table maps 32 KiB here.
        try Qcow2Device.create(
            path: directory.path("small.qcow2"), lengthBytes: 65536, clusterBytes: 512)
        let path = directory.path("small.qcow2")
        let writer = try Qcow2Device.open(path: path, readOnly: false, backing: nil)
        try await writer.put([1], at: 0)
        try await writer.put([2], at: 40_000)
        try await writer.close()
        let file = try HostFile(path: path, access: .readWrite)
        let small = try Qcow2Header(file: file)
        let l1 = try file.readNumbers(2, at: small.l1Offset)
        try file.writeNumbers([l1[0]], at: small.l1Offset + 8)
        let device = try Qcow2Device.open(path: path, readOnly: false, backing: nil)
        await expect(.corrupt) { try await device.put([3], at: 0) }
        #expect(try Qcow2Header(path: path).incompatible & 2 == 2)
    }

    /// All of a compressed form must be in the file; only its last sectors may be cut off.
    @Test func aCompressedClusterThatReachesBeyondTheFileIsRefused() async throws {
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "1m",
        ])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -c -P 7 0 4k", image])
        let file = try HostFile(path: image, access: .readWrite)
        let fresh = try Qcow2Header(file: file)
        let l2 = try file.readNumbers(1, at: fresh.l1Offset)[0] & Qcow2Layout.offsetMask
        let entry = try file.readNumbers(1, at: l2)[0]
        let whole = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
        #expect(try await whole.bytes(at: 0, 4096) == [UInt8](repeating: 7, count: 4096))
        // Fifteen sectors more.
        try file.writeNumbers([entry | 15 << 58], at: l2)
        for isReadOnly in [true, false] {
            let device = try Qcow2Device.open(path: image, readOnly: isReadOnly, backing: nil)
            await expect(.corrupt) { _ = try await device.bytes(at: 0, 4096) }
            if !isReadOnly { await expect(.corrupt) { try await device.put([1], at: 0) } }
            try await device.close()
        }
        #expect(try Qcow2Header(path: image).incompatible & 2 == 2)
    }

    /// QEMU's bitmaps are marked before guest data changes, and the mark must not hit a table.
    @Test func aListOfBitmapsOnTopOfATableIsNotMarked() async throws {
        let image = directory.path("bitmaps.qcow2")
        var kind = QemuImageKind()
        kind.clusterBytes = 4096
        try kind.create(image, lengthBytes: 8 << 20)
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 8m", image])
        try Tool.check(["qemu-img", "bitmap", "--add", image, "b"])
        let whole = try readFile(image)
        let header = try Qcow2Header(path: image)
        let place = try #require(header.bitmaps)
        let pattern = withUnsafeBytes(of: place.offset.bigEndian) { Array($0) }
        let field = try #require((0..<4096).first { Array(whole[$0..<$0 + 8]) == pattern })
        for (name, offset) in [
            ("L1 table", header.l1Offset), ("refcount table", header.refcountTableOffset),
            ("middle of a cluster", place.offset + 8),
        ] {
            var bytes = whole
            bytes.withUnsafeMutableBytes { $0.storeBigEndian(offset, at: field) }
            try writeFile(image, bytes)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            try await device.put([2], at: 0)
            try await device.close()
            let written = try readFile(image)
            #expect(try Qcow2Header(path: image).autoclear & 1 == 0, "\(name)")
            let table = Int(header.l1Offset)..<Int(header.l1Offset) + 32
            #expect(written[table] == whole[table], "\(name)")
            let refcounts = Int(header.refcountTableOffset)..<Int(header.refcountTableOffset) + 32
            #expect(written[refcounts] == whole[refcounts], "\(name)")
            let list = Int(place.offset)..<Int(place.offset) + 32
            #expect(written[list] == whole[list], "\(name)")
        }
    }

    @Test func refcountBlocksOnTopOfOthersAreRefusedAtOpen() throws {
        for offset in [header.l1Offset, l2Offset + 512, 1 << 40, header.refcountTableOffset] {
            let before = try readFile(image)
            try put(offset, at: header.refcountTableOffset)
            let error = refusal()
            #expect(error?.kind == .corrupt && "\(error!)".contains("block 0"), "\(offset)")
            try writeFile(image, before)
        }
    }

    @Test func metadataThatCountsAsFreeIsNotGivenAway() async throws {
        // The refcounts of the L2 table, and of the snapshot table, become 0.
        for offset in [l2Offset, header.snapshotOffset] {
            let whole = try readFile(image)
            var bytes = whole
            let place = Int(blockOffset + offset / 4096 * 2)
            bytes[place] = 0
            bytes[place + 1] = 0
            try writeFile(image, bytes)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            await expect(.corrupt) { try await device.put([9], at: 600_000) }
            try await device.close()
            bytes[Qcow2Layout.Field.incompatible + 7] |= 2
            #expect(try readFile(image) == bytes)
            try writeFile(image, whole)
        }
    }

    @Test func tablesOfTheHeaderMustNotOverlap() throws {
        typealias Field = Qcow2Layout.Field
        for (field, offset) in [
            (Field.l1Offset, header.refcountTableOffset), (Field.l1Offset, 0),
            (Field.refcountTableOffset, header.l1Offset),
            (Field.snapshotOffset, header.l1Offset), (Field.snapshotOffset, 0),
            (Field.snapshotOffset, header.snapshotOffset + 8),
        ] {
            let before = try readFile(image)
            try put(offset, at: UInt64(field))
            #expect(refusal()?.kind == .corrupt, "\(field): \(offset)")
            try writeFile(image, before)
        }
    }

    @Test func aCutOffImageIsRefusedOrReadsWhatIsThere() async throws {
        let whole = try readFile(image)
        let (zeroes, data) = (
            [UInt8](repeating: 0, count: 4096), [UInt8](repeating: 2, count: 4096)
        )
        var refusals = 0
        for count in stride(from: 0, to: whole.count, by: 20_000) {
            try writeFile(image, Array(whole[..<count]) + [0])
            guard let device = try? Qcow2Device.open(path: image, readOnly: true, backing: nil)
            else {
                refusals += 1
                continue
            }
            for offset in stride(from: 0, to: 1 << 20, by: 4096) {
                guard let bytes = try? await device.bytes(at: offset, 4096) else { continue }
                // The cluster at the end of the file may be there in part.
                #expect(bytes == zeroes || offset < 512 << 10 && bytes.last == 0 || bytes == data)
            }
        }
        #expect(refusals > 0)
    }

    @Test func unknownFeaturesAreRefusedByTheNameThatTheImageGives() throws {
        // QEMU lists names for all that it knows, if clusters are large; "dirty bit" is the first.
        // It becomes bit 40.
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "1m"])
        var bytes = try readFile(image)
        let name = Array("dirty bit".utf8)
        let place = try #require(
            (0..<4096 - name.count).first { Array(bytes[$0..<$0 + name.count]) == name })
        bytes[place - 1] = 40
        bytes[Qcow2Layout.Field.incompatible + 2] = 1
        try writeFile(image, bytes)
        let error = refusal()
        #expect(error?.kind == .unsupported && "\(error!)".contains("dirty bit (bit 40)"))
    }

    /// Replaces the first L2 entry, and expects what touches it to be refused for `reason`.
    private func expectRefusal(_ reason: String, entry: UInt64) async throws {
        try await expectRefusal(reason, word: entry, at: l2Offset)
    }

    private func expectRefusal(_ reason: String, word: UInt64, at offset: UInt64) async throws {
        let whole = try readFile(image)
        for now in [false, true] {
            try put(word, at: offset)
            var damaged = try readFile(image)
            let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            // With the table in memory the now face meets the entry; else it refuses.
            if now && offset == l2Offset { _ = try await device.bytes(at: 300_000, 1) }
            do {
                try await device.put([1, 2, 3], at: 100, now: now)
                Issue.record("\(reason): nothing was refused")
            } catch {
                #expect(error.kind == .corrupt && "\(error)".contains(reason), "\(error)")
            }
            await expect(.corrupt) { try await device.put([1], at: 400_000) }
            await expect(.corrupt) {
                try await device.discard(ByteRange(offset: 0, lengthBytes: 1 << 20))
            }
            if offset == l2Offset {
                #expect(try await device.bytes(at: 300_000, 1) == [2])
            }
            try await device.close()
            damaged[Qcow2Layout.Field.incompatible + 7] |= 2
            #expect(try readFile(image) == damaged, "\(reason): something was written")
            #expect(refusal()?.kind == .corrupt)
            try writeFile(image, whole)
        }
    }

    private func put(_ word: UInt64, at offset: UInt64) throws {
        try HostFile(path: image, access: .readWrite).writeNumbers([word], at: offset)
    }

    /// The error of opening the image for writing.
    private func refusal() -> BlockError? {
        do {
            _ = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            return nil
        } catch {
            return error
        }
    }
}

import BlockCore
import TestSupport

@testable import DriverQcow2

/// Damage to the metadata of one image, at random.
struct ImageDamage {
    /// The places of 64-bit numbers, by what they are in.
    private let places: [(name: String, offsets: [Int])]
    /// Offsets that stand somewhere in the metadata.
    private let targets: [UInt64]
    private let fileBytes: Int

    /// Finds the metadata of the image at `path`, which must be whole.
    init(_ path: String) throws {
        let file = try HostFile(path: path, access: .readOnly)
        let header = try StoredHeader(file: file)
        let fileBytes = Int(try file.sizeBytes())
        let clusterBytes = Int(header.clusterBytes)
        var places: [(name: String, offsets: [Int])] = []
        func add(_ name: String, _ offset: UInt64, _ bytes: Int) {
            let offsets = stride(from: Int(offset), to: Int(offset) + bytes, by: 8)
            places.append((name, offsets.filter { $0 + 8 <= fileBytes }))
        }
        // Where the names in a header are is left alone: a checker needs no other files.
        add("header", 24, 72)
        let l1Bytes = Int(header.l1Count) * 8
        add("L1", header.l1Offset, l1Bytes)
        add("refcount table", header.refcountTableOffset, min(clusterBytes, 64))
        let l1 = try file.readNumbers(Int(header.l1Count), at: header.l1Offset)
        var targets: [UInt64] = [header.l1Offset, header.refcountTableOffset, 0]
        for entry in l1 where entry != 0 {
            let offset = entry & Qcow2Layout.offsetMask
            add("L2", offset, min(clusterBytes, 20 * header.l2EntryBytes))
            targets.append(offset)
        }
        for block in try file.readNumbers(clusterBytes / 8, at: header.refcountTableOffset)
        where block != 0 {
            add("refcount block", block, min(clusterBytes, 128))
            targets.append(block)
        }
        let snapshots = try StoredSnapshots(file: file, header: header)
        if !snapshots.snapshots.isEmpty {
            add("snapshot table", header.snapshotOffset, Int(snapshots.lengthBytes))
            for snapshot in snapshots.snapshots {
                add("snapshot's L1", snapshot.l1Offset, Int(snapshot.l1Count) * 8)
            }
        }
        if let bitmaps = try StoredBitmaps(file: file, header: header) {
            add("bitmap directory", bitmaps.offset, Int(bitmaps.lengthBytes))
            for bitmap in bitmaps.bitmaps {
                add("bitmap table", bitmap.tableOffset, Int(bitmap.tableCount) * 8)
            }
        }
        self.places = places.filter { !$0.offsets.isEmpty }
        self.targets = targets
        self.fileBytes = fileBytes
    }

    /// Changes one number, and says which.
    func apply(to bytes: inout [UInt8], using random: inout SplitMix64) -> String {
        let place = places.randomElement(using: &random)!
        let offset = place.offsets.randomElement(using: &random)!
        let old: UInt64 = bytes.withUnsafeBytes { $0.bigEndian(at: offset) }
        var new = old
        switch Int.random(in: 0..<6, using: &random) {
        case 0, 1: new ^= 1 << UInt64.random(in: 0..<64, using: &random)
        case 2: new = targets.randomElement(using: &random)! | old & Qcow2Layout.copied
        case 3: new = (old & Qcow2Layout.offsetMask) + UInt64(fileBytes) | Qcow2Layout.copied
        case 4: new ^= Qcow2Layout.copied
        default: new = UInt64.random(in: 0 ... .max, using: &random)
        }
        bytes.withUnsafeMutableBytes { $0.storeBigEndian(new, at: offset) }
        return "\(place.name) at \(offset): \(String(old, radix: 16)) -> \(String(new, radix: 16))"
    }
}

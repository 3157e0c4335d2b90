import BlockCore
import TestSupport

@testable import DriverQcow2

/// Changes refcounts, flags and entries of the refcount table of an image at random: what can be
/// repaired without loss.
struct RefcountScrambler {
    let path: String

    /// Changes some of each.
    func scramble(using random: inout SplitMix64) throws {
        let file = try HostFile(path: path, access: .readWrite)
        let header = try StoredHeader(file: file)
        let table = try file.readNumbers(
            Int(header.clusterBytes) / 8, at: header.refcountTableOffset)
        let blocks = table.filter { $0 != 0 }
        let used = header.clusters(for: try file.sizeBytes())
        for _ in 0..<6 {
            let number = Int.random(in: 0..<blocks.count, using: &random)
            var block = RefcountBlock(
                bytes: try file.readBytes(Int(header.clusterBytes), at: blocks[number]),
                order: header.refcountOrder)
            let first = UInt64(number) * header.countsPerBlock
            let count = min(header.countsPerBlock, used > first ? used - first : 0)
            guard count > 0 else { continue }
            let most = min(header.refcountMax, 3)
            block[Int.random(in: 0..<Int(count), using: &random)] =
                UInt64.random(in: 0...most, using: &random)
            try block.bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: blocks[number], from: bytes)
            }
        }
        if Bool.random(using: &random) {
            let index = UInt64(Int.random(in: 0..<blocks.count, using: &random))
            let wrong = [0, blocks[0] + 512, blocks[0] | 1, 1 << 50].randomElement(using: &random)!
            try file.writeNumbers([wrong], at: header.refcountTableOffset + index * 8)
        }
        for index in 0..<Int(header.l1Count) where Bool.random(using: &random) {
            let place = header.l1Offset + UInt64(index * 8)
            let entry = try file.readNumbers(1, at: place)[0]
            guard entry != 0 else { continue }
            try file.writeNumbers([entry ^ Qcow2Layout.copied], at: place)
            let l2 = entry & Qcow2Layout.offsetMask
            var entries = try EntryTable(file: file, header: header, at: l2)
            for index in 0..<min(entries.count, 8) {
                let kind = entries[index].kind(in: header)
                guard kind == .data || kind == .allocatedZero, entries[index].offset != 0 else {
                    continue
                }
                entries[index].raw ^= Qcow2Layout.copied
            }
            try entries.write(to: file, at: l2)
        }
    }
}

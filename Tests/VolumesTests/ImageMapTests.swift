import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// The map of a chain is the one of `qemu-img map`.
@Suite struct ImageMapTests {
    /// What both maps say of a run.
    private struct Entry: Equatable {
        var start: UInt64
        var length: UInt64
        let depth: Int
        let present: Bool
        let zero: Bool
        let data: Bool
        let offset: UInt64?
    }

    @Test func theMapOfAChainIsThatOfQemu() throws {
        for (index, kind) in QemuImageKind.sample(16, for: "map").enumerated() {
            let directory = try TemporaryDirectory()
            var random = Seed.generator("map \(kind)")
            var path: String?
            // A chain of up to four images, of any sizes.
            for depth in 0...index % 4 {
                let next = directory.path("\(depth).qcow2")
                let isTop = depth == index % 4
                try (isTop ? kind : QemuImageKind()).fill(next, backing: path, using: &random)
                path = next
            }
            try expectSameMap(path!, .qcow2, "\(kind), depth \(index % 4)")
        }
    }

    @Test func theMapOfARawFileIsThatOfQemu() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("image.raw")
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", path, "8m"])
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write 1m 1m", "-c", "write 4m 64k", "-c",
            "write 8128k 64k", path,
        ])
        try expectSameMap(path, .raw, "raw")
        // Below an image that is longer, and of no whole number of clusters.
        let top = directory.path("top.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "raw", top, "9000448",
        ])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 2m 1m", top])
        try expectSameMap(top, .qcow2, "over raw")
    }

    /// QEMU rounds the length of a raw file up to whole sectors.
    @Test func aRawFileOfOddSizeEndsWhereItEnds() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("odd.raw")
        try writeFile(path, [UInt8](repeating: 1, count: 1000))
        let extents = try ImageMap(path: path, format: .raw).extents()
        #expect(extents.count == 1 && extents[0].isData && extents[0].range.end == 1000)
    }

    private func expectSameMap(_ path: String, _ format: ImageFormat, _ what: String) throws {
        let text = try Tool.check([
            "qemu-img", "map", "--output=json", "-f", format.rawValue, path,
        ])
        let entries = try #require(
            try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]])
        let judge = Self.merged(
            try entries.map { entry in
                let number = { (key: String) in (entry[key] as? NSNumber)?.uint64Value }
                let data = entry["data"] as? Bool ?? false
                return Entry(
                    start: try #require(number("start")), length: try #require(number("length")),
                    depth: Int(try #require(number("depth"))),
                    present: entry["present"] as? Bool ?? false,
                    // QEMU looks whether storage is a hole of the file; this map does not.
                    zero: !data && entry["zero"] as? Bool ?? false, data: data,
                    offset: number("offset"))
            })
        let map = try ImageMap(path: path, format: format)
        let ours = Self.merged(
            try map.extents().map {
                Entry(
                    start: $0.range.offset, length: $0.range.lengthBytes, depth: $0.depth,
                    present: $0.isPresent, zero: $0.isZero, data: $0.isData, offset: $0.offset)
            })
        let difference = zip(ours, judge).first { $0 != $1 }
        #expect(
            ours == judge,
            "\(what): \(ours.count) and \(judge.count) runs; \(String(describing: difference))")
    }

    /// Joins runs that say the same and follow each other, which both may or may not do.
    private static func merged(_ entries: [Entry]) -> [Entry] {
        var result: [Entry] = []
        for entry in entries {
            if let last = result.last, last.start + last.length == entry.start,
                last.depth == entry.depth, last.present == entry.present,
                last.zero == entry.zero, last.data == entry.data,
                entry.offset == last.offset.map({ $0 + last.length })
            {
                result[result.count - 1].length += entry.length
            } else {
                result.append(entry)
            }
        }
        return result
    }
}

import BlockCore
import Foundation
import TestSupport
import Testing

@testable import DriverQcow2

/// What an image says of itself is what `qemu-img info` reads there.
@Suite struct InfoTests {
    @Test func theFactsAreThoseOfQemu() throws {
        for kind in QemuImageKind.sample(15, for: "info") {
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            var random = Seed.generator("info \(kind)")
            try kind.fill(image, using: &random)
            let info = try Qcow2Info(path: image)
            let text = try Tool.check(["qemu-img", "info", "--output=json", "-f", "qcow2", image])
            let judge = try #require(
                try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
            let specific = try #require(judge["format-specific"] as? [String: Any])
            let data = try #require(specific["data"] as? [String: Any])
            #expect(info.sizeBytes == number(judge["virtual-size"]), "\(kind)")
            #expect(info.clusterBytes == number(judge["cluster-size"]), "\(kind)")
            #expect((judge["dirty-flag"] as? Bool ?? false) == info.isMarkedDirty)
            #expect(data["compat"] as? String == (info.version == 2 ? "0.10" : "1.1"))
            #expect(number(data["refcount-bits"]) == UInt64(info.refcountBits))
            #expect(
                data["compression-type"] as? String
                    == (info.compression == .zstd ? "zstd" : "zlib"))
            #expect((data["lazy-refcounts"] as? Bool ?? false) == info.hasLazyRefcounts)
            #expect((data["extended-l2"] as? Bool ?? false) == info.hasExtendedL2)
            #expect((data["corrupt"] as? Bool ?? false) == info.isMarkedCorrupt)
            #expect(data["data-file"] as? String == info.dataFile)
            #expect((data["data-file-raw"] as? Bool ?? false) == info.isDataFileRaw)
            let snapshots = (judge["snapshots"] as? [[String: Any]]) ?? []
            #expect(snapshots.map { $0["name"] as? String } == info.snapshots.map(\.name))
            #expect(snapshots.map { $0["id"] as? String } == info.snapshots.map(\.id))
            let bitmaps = (data["bitmaps"] as? [[String: Any]]) ?? []
            #expect(bitmaps.map { $0["name"] as? String } == info.bitmaps.map(\.name), "\(kind)")
            #expect(
                bitmaps.map { number($0["granularity"]) } == info.bitmaps.map(\.granularityBytes))
            #expect(
                bitmaps.map { ($0["flags"] as? [String] ?? []).contains("auto") }
                    == info.bitmaps.map(\.isAutomatic))
        }
    }

    @Test func aBackingFileAndItsFormatAreNamedAsTheyStand() throws {
        let directory = try TemporaryDirectory()
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", directory.path("base.raw"), "1m"])
        let image = directory.path("image.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", image,
        ])
        #expect(
            try Qcow2Info(path: image).backing == Qcow2Backing(name: "base.raw", format: "raw"))
    }

    private func number(_ value: Any?) -> UInt64? { (value as? NSNumber)?.uint64Value }
}

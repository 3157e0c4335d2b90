import BlockCore
import TestSupport
import Testing

@testable import Jobs

@Suite struct RestoreSweepTests {
    /// An image that a volume uses already needs no other name; one that nothing uses is for its
    /// restore to go on with.
    @Test func onlyWhatARestoreThatEndedLeftIsRemoved() throws {
        let directory = try TemporaryDirectory()
        let images = ["used", "unused"].map { directory.path("\($0).qcow2") }
        var leftovers: [String] = []
        for image in images {
            let stem = "\(image).20261121T030000.123Z-4f2a91c3"
            for suffix in [NewImage.suffix, NewImage.journalSuffix] {
                _ = try HostFile(path: stem + suffix, access: .create)
                leftovers.append(stem + suffix)
            }
            try HostDirectory.link(stem + NewImage.suffix, to: image)
        }
        let foreign = directory.path("foreign\(NewImage.suffix)")
        _ = try HostFile(path: foreign, access: .create)

        for expected in [Array(leftovers[..<2]), []] {
            let removed = try RestoreSweep.run(folder: directory.path, paths: [images[0]])
            #expect(removed == expected)
        }
        for path in images + leftovers[2...] + [foreign] { #expect(HostDirectory.exists(path)) }
        #expect(try RestoreSweep.run(folder: directory.path("none"), paths: images).isEmpty)
    }
}

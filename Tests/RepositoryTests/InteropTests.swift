import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

/// Every point is what QEMU's own tool takes it for, without Tidemark.
@Suite struct InteropTests {
    private func qemuImage(_ arguments: String...) throws -> (status: Int32, output: String) {
        let process = arguments.map { "'\($0)'" }.joined(separator: " ")
        return try run("sh", "-c", "qemu-img \(process)")
    }

    @Test(arguments: [4096, 65536, 2 << 20], [0, 1])
    func qemuReadsEachPointOfARandomChain(_ granularity: Int, _ round: Int) async throws {
        let seed = Seed.current &+ UInt64(round)
        var random = SplitMix64(seed: seed)
        let folder = try TemporaryFolder()
        let repository = try await DirectoryRepository.create(at: "\(folder.path)/r")
        var volume = TestVolume(
            lengthBytes: Int.random(in: 1...granularity * 12, using: &random),
            granularityBytes: UInt64(granularity))
        for index in 0..<4 {
            volume.change(using: &random, mayResize: index > 0)
            let manifest = try await volume.backUp(
                to: repository, index == 0 ? .full : .incremental, using: &random)
            let image = try #require(
                try await repository.points().last.map { "\($0.folder)/\(manifest.image.file)" })

            let check = try qemuImage("check", image)
            #expect(check.status == 0, "\(check.output), seed \(seed)")
            #expect(check.output.contains("No errors were found"))

            let raw = "\(folder.path)/\(index).raw"
            let convert = try qemuImage("convert", "-O", "raw", image, raw)
            #expect(convert.status == 0, "\(convert.output)")
            let found = [UInt8](try Data(contentsOf: URL(filePath: raw)))
            #expect(found.count == volume.content.count.roundedUp(to: 512))
            #expect(found.starts(with: volume.content), "seed \(seed)")
            #expect(found.dropFirst(volume.content.count).allSatisfy { $0 == 0 })
            let compare = try qemuImage("compare", "-f", "qcow2", "-F", "raw", image, raw)
            #expect(compare.status == 0, "\(compare.output)")

            let info = try qemuImage("info", "--output=json", image)
            if let parent = manifest.parent {
                #expect(info.output.contains("\"backing-filename\": \"\(parent.point).qcow2\""))
                #expect(info.output.contains("\"backing-filename-format\": \"qcow2\""))
            } else {
                #expect(!info.output.contains("backing-filename"))
            }
        }
    }

    @Test func aChainThatWasMovedElsewhereStillReads() async throws {
        let lab = try await TestRepository()
        let moved = try lab.folder.copy()
        let repository = try await DirectoryRepository.open(at: moved.path)
        #expect(try await content(of: lab.ids[2], in: repository) == lab.contents[2])
        let folder = try #require(try await repository.points().last?.folder)
        let raw = "\(moved.path)/out.raw"
        let convert = try qemuImage(
            "convert", "-O", "raw", "\(folder)/\(lab.ids[2]).qcow2", raw)
        #expect(convert.status == 0, "\(convert.output)")
        let found = [UInt8](try Data(contentsOf: URL(filePath: raw)))
        #expect(found.starts(with: lab.contents[2]))
    }
}

extension Int {
    fileprivate func roundedUp(to unit: Int) -> Int { (self + unit - 1) / unit * unit }
}

import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Repository

/// Content with proof, whole and salvaged.
@Suite struct PointReaderTests {
    private struct Read {
        var bytes: [UInt8]
        var lost: LostRanges
    }

    private func readAll(_ reader: PointReader) async throws -> Read {
        var result = Read(
            bytes: [UInt8](repeating: 0xFF, count: Int(reader.lengthBytes)), lost: LostRanges())
        var position: UInt64 = 0
        while let piece = try reader.next() {
            #expect(piece.range.offset == position)
            position = piece.range.end
            let start = Int(piece.range.offset)
            let end = Int(piece.range.end)
            if piece.isZero {
                result.lost.add(reader.doubts(about: piece))
                result.bytes.replaceSubrange(
                    start..<end, with: repeatElement(0, count: end - start))
                continue
            }
            #expect(piece.range.lengthBytes <= PointPieces.windowBytes)
            let content = BufferPool.shared.take(end - start).prefix(end - start)
            let lost = try await reader.read(piece, into: content)
            result.lost.add(lost)
            result.bytes.replaceSubrange(start..<end, with: Array(content.readOnlyBytes))
            let isCertain = lost.isEmpty
            #expect(reader.matches(piece, content) == isCertain || !isCertain)
            content.bytes[0] ^= 1
            #expect(!reader.matches(piece, content))
        }
        #expect(position == reader.lengthBytes)
        try await reader.close()
        return result
    }

    @Test(arguments: [4096, 65536, 1 << 20, 2 << 20] as [UInt64])
    func everyPointOfARandomChainReadsAsItWas(granularityBytes: UInt64) async throws {
        var random = Seed.generator("point reader \(granularityBytes)")
        let folder = try TemporaryFolder()
        let repository = try await DirectoryRepository.create(at: folder.path)
        var volume = TestVolume(
            lengthBytes: Int.random(in: 1...6_000_000, using: &random),
            granularityBytes: granularityBytes)
        var points: [(Manifest, [UInt8])] = []
        for index in 0..<5 {
            volume.change(using: &random)
            let level: PointLevel = index == 0 ? .full : .incremental
            points.append(
                (try await volume.backUp(to: repository, level, using: &random), volume.content))
        }
        for (manifest, content) in points {
            for isSalvaging in [false, true] {
                let reader = try await repository.openReader(
                    manifest.point, isSalvaging: isSalvaging)
                let read = try await readAll(reader)
                #expect(read.bytes == content)
                #expect(read.lost.isEmpty)
            }
        }
    }

    /// Each file of each point of a chain is lost or damaged in turn.
    @Test func whatASalvageDoesNotListIsRight() async throws {
        for index in 0..<3 {
            for suffix in ["json", "qcow2", "digests"] {
                for isRemoved in [true, false] {
                    let test = try await TestRepository(
                        lengthBytes: 3_000_000, variant: UInt64(index))
                    if isRemoved {
                        try test.remove(index, suffix)
                    } else {
                        try test.flip(index, suffix, at: suffix == "qcow2" ? 70_000 : 100)
                    }
                    let what = "\(suffix) of \(index), removed: \(isRemoved)"
                    if index == 2 && suffix == "json" {
                        await expectError(isRemoved ? .notFound : .corrupt) {
                            _ = try await test.repository.openReader(
                                test.ids[2], isSalvaging: true)
                        }
                        continue
                    }
                    let reader = try await test.repository.openReader(
                        test.ids[2], isSalvaging: true)
                    let read = try await readAll(reader)
                    var isLost = [Bool](repeating: false, count: read.bytes.count)
                    for lost in read.lost.all {
                        for offset in lost.range.offset..<lost.range.end {
                            isLost[Int(offset)] = true
                        }
                    }
                    let wrong = read.bytes.indices.filter {
                        !isLost[$0] && read.bytes[$0] != test.contents[2][$0]
                    }
                    #expect(wrong.isEmpty, "\(what): \(wrong.count) bytes")
                    // The data of a damaged table or manifest are there all the same.
                    if suffix != "qcow2" { #expect(read.bytes == test.contents[2], "\(what)") }
                }
            }
        }
    }

    @Test func aGapStopsAReaderThatDoesNotSalvage() async throws {
        let test = try await TestRepository()
        try test.remove(1, "json")
        await expectError(.notFound, test.ids[1].text) {
            _ = try await test.repository.openReader(test.ids[2], isSalvaging: false)
        }
    }

    @Test func lostRangesStayFewAndLeaveNothingOut() {
        var lost = LostRanges()
        var random = Seed.generator("lost ranges")
        var offsets: [UInt64] = []
        for index in 0..<20_000 as Range<UInt64> {
            let offset = index << 17
            guard Bool.random(using: &random) else { continue }
            offsets.append(offset)
            lost.add([
                LostRange(range: ByteRange(offset: offset, lengthBytes: 4096), reason: "r")
            ])
        }
        let all = lost.all
        #expect(all.count <= 4096)
        for offset in offsets {
            #expect(
                all.contains { $0.range.contains(ByteRange(offset: offset, lengthBytes: 4096)) })
        }
    }
}

import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// A crash at any moment of a repair, with any writes lost that were not flushed, leaves an image
/// with all its content, and one that the next repair finishes.
@Suite struct RepairCrashTests {
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
    }

    @Test func aCrashAnywhereInARepairCostsNothing() async throws {
        for kind in QemuImageKind.sample(5, for: "repair crash") {
            var random = Seed.generator("repair crash \(kind)")
            let directory = try TemporaryDirectory()
            let image = directory.path("image.qcow2")
            var kind = kind
            // Everything is in memory, many times.
            kind.clusterBytes = min(kind.clusterBytes, 16384)
            kind.hasDataFile = false
            guard kind.isPossible else { continue }
            try kind.fill(image, using: &random)
            let content = try readGuest(try readFile(image), kind)
            try RefcountScrambler(path: image).scramble(using: &random)
            let recording = try RecordingFile(MemoryFile(try readFile(image)))
            let report = try Qcow2Check.repair(file: recording, .all)
            #expect(report.verdict == .clean, "\(kind): \(report.findings)")
            let operations = recording.operations
            for end in 0...operations.count {
                let volatile = operations.volatileIndices(before: end, unfinished: true)
                let lost = Set(volatile.filter { _ in Bool.random(using: &random) })
                let torn = Set(volatile.filter { _ in Int.random(in: 0..<4, using: &random) == 0 })
                for (lost, torn) in [(Set<Int>(), Set<Int>()), (lost, torn)] {
                    let file = MemoryFile(recording.start)
                    operations.replay(
                        end, on: file, without: lost, torn: torn, using: &random)
                    #expect(try readGuest(file.content, kind) == content, "\(kind), \(end)")
                    let after = try Qcow2Check.repair(file: file, .all)
                    #expect(after.verdict == .clean, "\(kind), \(end): \(after.findings)")
                    #expect(try readGuest(file.content, kind) == content, "\(kind), \(end)")
                }
            }
        }
    }

    /// A failing medium ends the repair with its error, and the next one finishes it.
    @Test func anErrorAnywhereInARepairIsReported() async throws {
        var random = Seed.generator("repair errors")
        var kind = QemuImageKind()
        kind.clusterBytes = 4096
        try kind.fill(image, using: &random)
        try RefcountScrambler(path: image).scramble(using: &random)
        let start = try readFile(image)
        let whole = try RecordingFile(MemoryFile(start))
        _ = try Qcow2Check.repair(file: whole, .all)
        for operation in [.write, .durableWrite, .flush] as [RecordingFile.Kind] {
            for number in 1...max(whole.count(operation), 1) where whole.count(operation) > 0 {
                let file = try RecordingFile(MemoryFile(start))
                file.fail(operation, number: number)
                #expect(throws: BlockError.self) { try Qcow2Check.repair(file: file, .all) }
                file.heal()
                #expect(try Qcow2Check.repair(file: file, .all).verdict == .clean)
            }
        }
    }

    /// What a guest sees of an image, without its driver: by the map and the bytes it points to.
    private func readGuest(_ bytes: [UInt8], _ kind: QemuImageKind) throws -> [[UInt8]] {
        let map = try Qcow2Map(file: MemoryFile(bytes))
        var content: [[UInt8]] = []
        var position: UInt64 = 0
        while position < map.sizeBytes {
            let run = try map.run(at: position, end: map.sizeBytes)
            if run.kind == .data, let host = run.hostOffset {
                let end = min(Int(host + run.range.lengthBytes), bytes.count)
                content.append(Array(bytes[min(Int(host), end)..<end]))
            } else {
                content.append(["\(run.kind)".utf8.first!, UInt8(run.range.lengthBytes & 255)])
            }
            position = run.range.end
        }
        return content
    }
}

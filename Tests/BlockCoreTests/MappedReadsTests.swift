import CLinux
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

@testable import BlockCore

/// Reads that are copied out of the page cache without a system call.
@Suite(.serialized) struct MappedReadsTests {
    private let directory: TemporaryDirectory
    private let path: String
    private let file: HostFile

    init() throws {
        directory = try TemporaryDirectory()
        path = directory.path("file")
        try writeFile(path, [UInt8](repeating: 1, count: 3 << 20))
        file = try HostFile(path: path, access: .readWrite)
    }

    private func readNow(at offset: UInt64, count: Int = 4096) throws -> [UInt8]? {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        let attempt = try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.readNow(at: offset, into: bytes)
        }
        return attempt == .done ? bytes : nil
    }

    /// Reads so often that the region is mapped, and says whether it is.
    private func heat(_ offset: UInt64) throws -> Bool {
        for _ in 0..<200 { _ = try readNow(at: offset) }
        return try mappedLengths().contains { $0 > 0 }
    }

    /// The lengths of the mappings of the file.
    private func mappedLengths() throws -> [Int] {
        try String(contentsOfFile: "/proc/self/maps", encoding: .utf8)
            .split(separator: "\n").filter { $0.hasSuffix(path) }
            .map { line in
                let ends = line.split(separator: " ")[0].split(separator: "-")
                return Int(ends[1], radix: 16)! - Int(ends[0], radix: 16)!
            }
    }

    @Test func aFileIsMappedOnlyOnceItIsReadOften() throws {
        for _ in 0..<8 { _ = try readNow(at: 0) }
        #expect(try mappedLengths().isEmpty)
        #expect(try heat(0))
        #expect(try mappedLengths() == [1 << 30])
    }

    @Test func aReadSeesEveryEarlierWriteHoweverItWasMade() throws {
        #expect(try heat(1 << 20))
        for round in 2..<50 as Range<UInt8> {
            let bytes = [UInt8](repeating: round, count: 4096)
            try bytes.withBytes { (bytes) throws(BlockError) in
                if round % 2 == 0 {
                    try file.write(at: 1 << 20, from: bytes)
                } else {
                    try file.writeDurably(at: 1 << 20, from: bytes)
                }
            }
            #expect(try readNow(at: 1 << 20) == bytes)
        }
        try file.punchHole(ByteRange(offset: 1 << 20, lengthBytes: 4096))
        #expect(try readNow(at: 1 << 20).map { $0.allSatisfy { $0 == 0 } } != false)
        try file.zeroRange(ByteRange(offset: 1 << 20 + 4096, lengthBytes: 4096))
        #expect(try readNow(at: 1 << 20 + 4096).map { $0.allSatisfy { $0 == 0 } } != false)
    }

    /// Without the way out of the copy this ends the process.
    @Test func aFileThatIsCutMeanwhileReadsAsZeroesBeyondItsEnd() throws {
        #expect(try heat(2 << 20))
        #expect(truncate(path, 1 << 20) == 0)
        var bytes = [UInt8](repeating: 0xEE, count: 4096)
        // Asked right away, while the answer holds that all of it is in the page cache.
        let attempt = try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.readNow(at: 2 << 20, into: bytes)
        }
        #expect(attempt == .begun(doneBytes: 0))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 2 << 20, into: bytes)
        }
        #expect(bytes.allSatisfy { $0 == 0 })
        // What is left of it is served as before.
        #expect(try readNow(at: 0) == [UInt8](repeating: 1, count: 4096))
    }

    @Test func theCopyFailsBeyondTheEndAndOnlyThere() throws {
        let opened = open(path, O_RDONLY)
        defer { close(opened) }
        let base = try #require(clinux_map_for_reading(opened, 0, 4 << 20))
        defer { munmap(base, 4 << 20) }
        var bytes = [UInt8](repeating: 0, count: 8192)
        #expect(clinux_copy_mapped(&bytes, base + (3 << 20 - 8192), 8192))
        #expect(bytes.allSatisfy { $0 == 1 })
        for _ in 0..<3 { #expect(!clinux_copy_mapped(&bytes, base + (3 << 20 - 4096), 8192)) }
        #expect(clinux_copy_mapped(&bytes, base, 8192))
    }

    private final class Progress: Sendable {
        let isOver = Atomic(false)
        let failures = Atomic(0)
    }

    @Test func manyThreadsReadWhileOthersWrite() async throws {
        MappedReads.readsMin.store(4, ordering: .relaxed)
        defer { MappedReads.readsMin.store(64, ordering: .relaxed) }
        let progress = Progress()
        let file = file
        await withTaskGroup(of: Void.self) { group in
            for reader in 0..<3 {
                group.addTask(executorPreference: IOPool.guest) {
                    var bytes = [UInt8](repeating: 0, count: 4096)
                    var offset = UInt64(reader) * 4096
                    while !progress.isOver.load(ordering: .relaxed) {
                        offset = (offset + 77 * 4096) % (3 << 20)
                        let attempt = try? bytes.withMutableBytes { (bytes) throws(BlockError) in
                            try file.readNow(at: offset, into: bytes)
                        }
                        // Whatever a read finds was written by somebody.
                        if attempt == .done, bytes.contains(where: { $0 < 1 || $0 > 201 }) {
                            progress.failures.add(1, ordering: .relaxed)
                        }
                    }
                }
            }
            group.addTask(executorPreference: IOPool.guest) {
                for round in 2..<200 as Range<UInt8> {
                    let bytes = [UInt8](repeating: round, count: 3 << 20)
                    try? bytes.withBytes { (bytes) throws(BlockError) in
                        try file.write(at: 0, from: bytes)
                    }
                }
                progress.isOver.store(true, ordering: .relaxed)
            }
        }
        #expect(progress.failures.load(ordering: .relaxed) == 0)
        #expect(try readNow(at: 4096) == [UInt8](repeating: 199, count: 4096))
    }
}

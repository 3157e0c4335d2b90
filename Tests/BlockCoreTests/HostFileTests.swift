import Glibc
import TestSupport
import Testing

@testable import BlockCore

@Suite struct HostFileTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    @Test func aReplacedFileIsOldOrNewAndLeavesNothingBehind() throws {
        let path = directory.path("file")
        try HostDirectory.replaceFile(path, with: [1, 2, 3])
        try HostDirectory.replaceFile(path, with: [4, 5])
        #expect(try HostDirectory.readFile(path, limitBytes: 10) == [4, 5])
        #expect(try HostDirectory.names(in: directory.path) == ["file"])
        let error = #expect(throws: BlockError.self) {
            try HostDirectory.replaceFile(directory.path("none/file"), with: [1])
        }
        #expect(error?.kind == .notFound)
        #expect(try HostDirectory.names(in: directory.path) == ["file"])
    }

    @Test func aFileLargerThanTheLimitIsNotRead() throws {
        try writeFile(directory.path("file"), [1, 2, 3])
        let error = #expect(throws: BlockError.self) {
            try HostDirectory.readFile(directory.path("file"), limitBytes: 2)
        }
        #expect(error?.kind == .corrupt)
    }

    @Test func readsBeyondTheEndAreZeroes() throws {
        try writeFile(directory.path("file"), [1, 2, 3])
        let file = try HostFile(path: directory.path("file"), access: .readOnly)
        let slice = BufferSlice.holding([9, 9, 9, 9, 9])
        try file.read(at: 1, into: slice.bytes)
        #expect(slice.array == [2, 3, 0, 0, 0])
    }

    @Test(arguments: [false, true])
    func zeroesAreExactHoweverTheyAreMade(mayUnmap: Bool) throws {
        let path = directory.path("file")
        try writeFile(path, [UInt8](repeating: 7, count: 20_000))
        let file = try HostFile(path: path, access: .readWrite)
        try file.writeZeroes(ByteRange(offset: 4000, lengthBytes: 9001), mayUnmap: mayUnmap)
        var model = [UInt8](repeating: 7, count: 20_000)
        model.replaceSubrange(4000..<13_001, with: [UInt8](repeating: 0, count: 9001))
        #expect(try readFile(path) == model)
    }

    /// The kernel tells each opening of a file once that pages were lost in writeback. A durable
    /// write that is told must not keep it from the next flush, so it goes by an opening of its
    /// own.
    @Test func durableWritesGoByAnOpeningOfTheirOwn() throws {
        let path = directory.path("file")
        let file = try HostFile(path: path, access: .create)
        try file.write(at: 0, from: BufferSlice.holding([1, 2]).readOnlyBytes)
        #expect(try openings(of: path).count == 1)
        for _ in 0..<3 {
            try file.writeDurably(at: 5, from: BufferSlice.holding([1, 2]).readOnlyBytes)
        }
        let both = try openings(of: path)
        try #require(both.count == 2)
        // Two openings, not one twice: each has its own position.
        #expect(lseek(both[0], 7, SEEK_SET) == 7 && lseek(both[1], 0, SEEK_CUR) == 0)
        // And it is the second that is written by: it alone lets nothing be written, and it fails.
        let readOnly = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(readOnly) }
        #expect(dup2(readOnly, both[1]) == both[1])
        #expect(throws: BlockError.self) {
            try file.writeDurably(at: 5, from: BufferSlice.holding([3]).readOnlyBytes)
        }
        try file.flush()
    }

    /// The descriptors by which this process has `path` open, in the order in which it opened them.
    private func openings(of path: String) throws -> [Int32] {
        try HostDirectory.names(in: "/proc/self/fd").compactMap { Int32($0) }.sorted().filter {
            var target = [CChar](repeating: 0, count: 4096)
            let count = readlink("/proc/self/fd/\($0)", &target, target.count - 1)
            let name = target[..<max(0, count)].map { UInt8(bitPattern: $0) }
            return String(decoding: name, as: UTF8.self) == path
        }
    }

    @Test func durableWritesArriveLikeOthers() throws {
        let path = directory.path("file")
        let file = try HostFile(path: path, access: .create)
        try file.writeDurably(at: 5, from: BufferSlice.holding([1, 2]).readOnlyBytes)
        #expect(try readFile(path) == [0, 0, 0, 0, 0, 1, 2])
        let reader = try HostFile(path: path, access: .readOnly)
        let error = #expect(throws: BlockError.self) {
            try reader.writeDurably(at: 0, from: BufferSlice.holding([1]).readOnlyBytes)
        }
        #expect(error?.kind == .readOnly)
    }

    @Test func flushesThatComeTogetherAreShared() async throws {
        let path = directory.path("file")
        let file = try HostFile(path: path, access: .create)
        let flush = SharedFlush(file: file, pool: .guest)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<20 { group.addTask { try await flush.flush() } }
            try await group.waitForAll()
        }
    }

    @Test func aFileIsCreatedOnce() throws {
        _ = try HostFile(path: directory.path("file"), access: .create)
        #expect(throws: BlockError.self) {
            try HostFile(path: directory.path("file"), access: .create)
        }
    }
}

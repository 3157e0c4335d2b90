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

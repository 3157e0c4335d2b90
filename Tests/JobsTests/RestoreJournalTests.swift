import BlockCore
import TestSupport
import Testing

@testable import Jobs

@Suite struct RestoreJournalTests {
    private let directory: TemporaryDirectory
    private var path: String { directory.path("journal") }

    init() throws { directory = try TemporaryDirectory() }

    private func identity(_ point: String = "p") -> RestoreIdentity {
        RestoreIdentity(
            point: point, contentDigest: "d", target: "t", format: "raw", lengthBytes: 10,
            isSalvaging: false)
    }

    @Test func whatWasRecordedIsThereAgain() throws {
        do {
            let journal = try RestoreJournal(path: path, identity())
            #expect(!journal.isContinued && journal.flushedBytes == 0)
            try journal.record(1 << 20)
            try journal.record(3 << 20)
        }
        do {
            let journal = try RestoreJournal(path: path, identity())
            #expect(journal.isContinued && !journal.isDone && journal.flushedBytes == 3 << 20)
            try journal.recordDone(hasLosses: true)
        }
        let journal = try RestoreJournal(path: path, identity())
        #expect(journal.isDone && journal.hasLosses)
        journal.remove()
        #expect(!HostDirectory.exists(path))
    }

    @Test func aLineThatACrashCutOffCountsForNothing() throws {
        do {
            let journal = try RestoreJournal(path: path, identity())
            try journal.record(1 << 20)
            try journal.record(2 << 20)
        }
        let whole = try readFile(path)
        for count in 0..<whole.count {
            try cut(to: count, of: whole)
            let journal = try RestoreJournal(path: path, identity())
            let lines = whole[..<count].count { $0 == 0x0A }
            #expect(journal.flushedBytes == UInt64(max(lines - 1, 0)) << 20, "cut at \(count)")
            // What is appended after a torn line is read back as well.
            try journal.record(7 << 20)
            let text = String(decoding: try readFile(path), as: UTF8.self)
            #expect(text.hasSuffix("\n0000000000700000\n"), "cut at \(count)")
        }
    }

    @Test func aJournalOfAnotherRestoreIsBegunAnewAndOneAtWorkIsRefused() throws {
        do {
            let journal = try RestoreJournal(path: path, identity())
            try journal.record(1 << 20)
        }
        let other = try RestoreJournal(path: path, identity("q"))
        #expect(!other.isContinued && other.flushedBytes == 0)
        let error = #expect(throws: BlockError.self) { try RestoreJournal(path: path, identity()) }
        #expect(error?.kind == .busy)
        withExtendedLifetime(other) {}
    }

    private func cut(to count: Int, of bytes: [UInt8]) throws {
        try? HostDirectory.removeFile(path)
        let file = try HostFile(path: path, access: .create)
        try Array(bytes[..<count]).withBytes { (bytes) throws(BlockError) in
            try file.write(at: 0, from: bytes)
        }
    }
}

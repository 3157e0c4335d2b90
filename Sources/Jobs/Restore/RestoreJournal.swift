import BlockCore
import Foundation

// What lets a restore go on after an interruption.
//
//     {"…":…}          first line: what is being restored, and to where
//     0000000000100000 from then on one line of 16 hexadecimal digits each: everything below that
//                      offset had been flushed before the line was written
//     done             the destination is finished and durable; or, after a salvage,
//     done with losses
//
// Lines are only ever appended, each durable before the next; what follows the last line feed is
// the rest of an append that a crash cut off, and counts for nothing. What the journal says is
// never taken on trust: what lies below the offset is read back and compared with its digests, and
// what lies above is written again. A journal of anything else is of no use, and begun anew.

/// What a journal is about.
struct RestoreIdentity: Codable, Equatable {
    var formatVersion = 1
    var point: String
    var contentDigest: String
    var target: String
    /// "raw", "qcow2", "nbd".
    var format: String
    var lengthBytes: UInt64
    var isSalvaging: Bool
}

/// The journal of one restore, locked until it is removed or the last reference goes. Its calls
/// may block.
final class RestoreJournal: Sendable {
    let path: String
    /// Whether there was a journal of the same restore.
    let isContinued: Bool
    /// Up to where the destination had been flushed.
    let flushedBytes: UInt64
    /// Whether the destination had been finished.
    let isDone: Bool
    /// Whether something had been lost by then.
    let hasLosses: Bool

    private let file: HostFile
    private let end: HostMutex<UInt64>

    private static let lengthBytesMax = 1 << 30
    private static let done = "done"
    private static let doneWithLosses = "done with losses"

    /// Opens or begins the journal at `path`. Throws `busy` if another restore has it.
    init(path: String, _ identity: RestoreIdentity) throws(BlockError) {
        self.path = path
        file = try Self.lock(path)
        let bytes = try HostDirectory.readFile(path, limitBytes: Self.lengthBytesMax)
        let lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false).dropLast()
        let first = lines.first.flatMap {
            try? JSONDecoder().decode(RestoreIdentity.self, from: Data($0))
        }
        if first == identity {
            isContinued = true
            let texts = lines.dropFirst().map { String(decoding: $0, as: UTF8.self) }
            hasLosses = texts.contains(Self.doneWithLosses)
            isDone = hasLosses || texts.contains(Self.done)
            flushedBytes =
                texts.last { $0.utf8.count == 16 && UInt64($0, radix: 16) != nil }
                .flatMap { UInt64($0, radix: 16) } ?? 0
            let kept = lines.reduce(0) { $0 + $1.count + 1 }
            try file.truncate(toBytes: UInt64(kept))
            end = HostMutex(UInt64(kept))
        } else {
            isContinued = false
            isDone = false
            hasLosses = false
            flushedBytes = 0
            try file.truncate(toBytes: 0)
            end = HostMutex(0)
            guard let line = try? JSONEncoder().encode(identity) else {
                throw BlockError(.invalid, "begin the journal", on: path)
            }
            try append(Array(line))
            try HostDirectory.flush(HostDirectory.parent(of: path))
        }
    }

    /// Notes that everything below `offset` has been flushed.
    func record(_ offset: UInt64) throws(BlockError) {
        let digits = String(offset, radix: 16)
        try append(Array((String(repeating: "0", count: 16 - digits.count) + digits).utf8))
    }

    /// Notes that the destination is finished and durable.
    func recordDone(hasLosses: Bool) throws(BlockError) {
        try append(Array((hasLosses ? Self.doneWithLosses : Self.done).utf8))
    }

    /// Removes the journal: the restore is over.
    func remove() { try? HostDirectory.removeFile(path) }

    private func append(_ line: [UInt8]) throws(BlockError) {
        try end.withLock { (end) throws(BlockError) in
            try (line + [0x0A]).withBytes { (bytes) throws(BlockError) in
                try file.write(at: end, from: bytes)
            }
            try file.flush()
            end += UInt64(line.count + 1)
        }
    }

    private static func lock(_ path: String) throws(BlockError) -> HostFile {
        while true {
            if !HostDirectory.exists(path) { _ = try? HostFile(path: path, access: .create) }
            let identity = HostFile.identity(of: path)
            let file = try HostFile(path: path, access: .readWrite)
            do throws(BlockError) {
                try file.lock(exclusive: true)
            } catch {
                guard error.kind == .busy else { throw error }
                throw BlockError(
                    .busy, "lock", on: path,
                    detail: "another restore to the same place is at work: wait for it or cancel "
                        + "it (`tidemark job list`)")
            }
            // Another restore may have ended, and removed the file, just before it was locked.
            if identity != nil, identity == HostFile.identity(of: path) { return file }
        }
    }
}

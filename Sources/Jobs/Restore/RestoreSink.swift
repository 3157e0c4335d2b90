import BlockCore
import DriverQcow2
import Glibc
import Synchronization

// Where a restore writes to.
//
// A restored image appears under its name whole or not at all: it is written under a temporary
// name beside it, flushed, renamed, and the directory flushed. What stands under the name before
// is never replaced. While it is being written it is locked as QEMU locks an image that it writes.

/// A new image under construction. Pieces may come from several tasks in any order.
protocol RestoreSink: Sendable {
    /// Pieces begin and end on multiples of this, or at the end.
    var alignmentBytes: UInt64 { get }

    /// Stores what of `content` is not zero, and returns how many bytes that was.
    func write(at offset: UInt64, from content: BufferSlice) async throws(BlockError) -> UInt64

    /// Makes the image durable and gives it its name.
    func finish() async throws(BlockError)

    /// Removes what was written.
    func abandon() async
}

/// The two names of an image under construction.
struct TemporaryName: Sendable {
    let path: String
    let temporaryPath: String

    init(for path: String) throws(BlockError) {
        guard !HostDirectory.exists(path) else {
            throw BlockError(
                .invalid, "restore", on: path,
                detail: "there is something by that name: remove it or choose another")
        }
        self.path = path
        temporaryPath = "\(path).\(getpid())-\(UInt32.random(in: 0 ... .max)).tidemark-partial"
    }

    /// Gives the flushed file its name, unless something has taken that meanwhile.
    func publish() throws(BlockError) {
        try HostDirectory.link(temporaryPath, to: path)
        try HostDirectory.removeFile(temporaryPath)
        try HostDirectory.flush(HostDirectory.parent(of: path))
    }

    func remove() { try? HostDirectory.removeFile(temporaryPath) }

    /// Locks the file, which has just been created; removes it if that fails.
    func lock() throws(BlockError) -> ImageLock {
        do throws(BlockError) {
            return try ImageLock(path: temporaryPath, use: .writing)
        } catch {
            remove()
            throw error
        }
    }
}

extension BufferSlice {
    /// The runs of whole units, the last one maybe shorter, that are not all zero.
    func nonZeroRuns(unitBytes: Int) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        let bytes = readOnlyBytes
        var offset = 0
        while offset < count {
            let end = min(offset + unitBytes, count)
            if !UnsafeRawBufferPointer(rebasing: bytes[offset..<end]).isAllZero {
                if let last = runs.last, last.upperBound == offset {
                    runs[runs.count - 1] = last.lowerBound..<end
                } else {
                    runs.append(offset..<end)
                }
            }
            offset = end
        }
        return runs
    }
}

/// A sparse raw file.
final class RawRestoreSink: RestoreSink {
    let alignmentBytes: UInt64 = 64 << 10

    private let name: TemporaryName
    private let file: HostFile
    private let lock: ImageLock
    /// Writers take turns here instead of spinning in the kernel, which lets in one at a time.
    private let turn = HostMutex(())

    init(path: String, lengthBytes: UInt64) throws(BlockError) {
        name = try TemporaryName(for: path)
        file = try HostFile(path: name.temporaryPath, access: .create)
        lock = try name.lock()
        try file.truncate(toBytes: lengthBytes)
    }

    func write(at offset: UInt64, from content: BufferSlice) async throws(BlockError) -> UInt64 {
        try await IOPool.background.run { [file, turn] () throws(BlockError) in
            var stored: UInt64 = 0
            for run in content.nonZeroRuns(unitBytes: 64 << 10) {
                let range = ByteRange(
                    offset: offset + UInt64(run.lowerBound), lengthBytes: UInt64(run.count))
                let part = content.slice(run.lowerBound, run.count)
                try turn.withLock { (_) throws(BlockError) in
                    try file.write(at: range.offset, from: part.readOnlyBytes)
                }
                file.startWriteback(range)
                stored += range.lengthBytes
            }
            return stored
        }
    }

    func finish() async throws(BlockError) {
        try await IOPool.background.run { [file, name] () throws(BlockError) in
            try file.flush()
            try name.publish()
        }
        lock.release()
    }

    func abandon() async {
        name.remove()
        lock.release()
    }
}

/// A standalone qcow2 file.
final class Qcow2RestoreSink: RestoreSink {
    private static let clusterBytes: UInt64 = 64 << 10

    private let name: TemporaryName
    private let writer: Qcow2Writer
    private let lock: ImageLock

    init(path: String, lengthBytes: UInt64) throws(BlockError) {
        name = try TemporaryName(for: path)
        writer = try Qcow2Writer(
            path: name.temporaryPath, lengthBytes: lengthBytes, clusterBytes: Self.clusterBytes,
            backing: nil)
        lock = try name.lock()
    }

    var alignmentBytes: UInt64 { Self.clusterBytes }

    func write(at offset: UInt64, from content: BufferSlice) async throws(BlockError) -> UInt64 {
        var stored: UInt64 = 0
        for run in content.nonZeroRuns(unitBytes: Int(Self.clusterBytes)) {
            try await writer.write(
                at: offset + UInt64(run.lowerBound), from: content.slice(run.lowerBound, run.count))
            stored += UInt64(run.count)
        }
        return stored
    }

    func finish() async throws(BlockError) {
        try await writer.finish()
        try await IOPool.background.run { [name] () throws(BlockError) in try name.publish() }
        lock.release()
    }

    func abandon() async {
        writer.abandon()
        name.remove()
        lock.release()
    }
}

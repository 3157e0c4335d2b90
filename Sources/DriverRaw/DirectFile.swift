import BlockCore
import Synchronization

/// A file by requests that bypass the page cache, in whole units up to the last whole one. What
/// remains at the end of the file is not to be had this way, and neither is it written: that would
/// make the file longer.
final class DirectFile: AlignedStorage {
    /// Where the whole units end.
    var lengthBytes: UInt64 { length.load(ordering: .relaxed) }
    let unitBytes: UInt64
    private let length: Atomic<UInt64>
    private let file: HostFile
    private let pool: IOPool

    init(_ buffered: HostFile, pool: IOPool) throws(BlockError) {
        file = try HostFile(bypassingPageCacheOf: buffered)
        unitBytes = UInt64(try file.directUnitBytes())
        length = Atomic(try file.sizeBytes().alignedDown(to: unitBytes))
        self.pool = pool
    }

    /// The file was made longer or shorter.
    func setFileLength(_ lengthBytes: UInt64) {
        length.store(lengthBytes.alignedDown(to: unitBytes), ordering: .relaxed)
    }

    func readAligned(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try await pool.run { [file] () throws(BlockError) in
            try file.read(at: offset, into: destination.bytes)
        }
    }

    func writeAligned(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await pool.run { [file] () throws(BlockError) in
            try file.write(at: offset, from: source.readOnlyBytes)
        }
    }
}

import BlockCore

/// A file by requests that bypass the page cache, in whole units up to the last whole one. What
/// remains at the end of the file is not to be had this way, and neither is it written: that would
/// make the file longer.
final class DirectFile: AlignedStorage {
    /// Where the whole units end.
    let lengthBytes: UInt64
    let unitBytes: UInt64
    private let file: HostFile
    private let pool: IOPool

    init(_ buffered: HostFile, pool: IOPool) throws(BlockError) {
        file = try HostFile(bypassingPageCacheOf: buffered)
        unitBytes = UInt64(try file.directUnitBytes())
        lengthBytes = try file.sizeBytes().alignedDown(to: unitBytes)
        self.pool = pool
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

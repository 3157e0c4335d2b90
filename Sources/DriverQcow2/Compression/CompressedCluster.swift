import BlockCore
import CZlib
import CZstd

/// Unpacks compressed clusters.
struct CompressedCluster {
    let file: any StorageFile
    let header: Qcow2Header

    /// Fills `destination`, one cluster long, with the cluster that `entry` describes. Blocks.
    func read(
        _ entry: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) {
        let location = CompressedLocation(entry: entry, clusterBits: header.clusterBits)
        let fileBytes = try file.sizeBytes()
        guard location.offset < fileBytes else {
            throw failure(location, "it begins beyond the end of the file")
        }
        let count = min(location.lengthBytes, fileBytes - location.offset)
        let packed = BufferPool.shared.take(Int(count)).prefix(Int(count))
        try file.read(at: location.offset, into: packed.bytes)
        let whole =
            switch header.compression {
            case .deflate: Self.inflate(packed.readOnlyBytes, into: destination)
            case .zstd: Self.unpackZstd(packed.readOnlyBytes, into: destination)
            }
        guard whole else {
            throw failure(location, "it does not unpack to a cluster (\(header.compression))")
        }
    }

    /// Raw deflate, without a zlib header. Returns whether all of `destination` was filled.
    private static func inflate(
        _ packed: UnsafeRawBufferPointer, into destination: UnsafeMutableRawBufferPointer
    ) -> Bool {
        var stream = z_stream()
        let size = Int32(MemoryLayout<z_stream>.size)
        guard inflateInit2_(&stream, -15, ZLIB_VERSION, size) == Z_OK else { return false }
        defer { inflateEnd(&stream) }
        // zlib does not write through `next_in`, though its type says that it may.
        stream.next_in = UnsafeMutablePointer(
            mutating: packed.baseAddress!.assumingMemoryBound(to: Bytef.self))
        stream.avail_in = UInt32(packed.count)
        stream.next_out = destination.baseAddress!.assumingMemoryBound(to: Bytef.self)
        stream.avail_out = UInt32(destination.count)
        let status = CZlib.inflate(&stream, Z_FINISH)
        return (status == Z_STREAM_END || status == Z_BUF_ERROR) && stream.avail_out == 0
    }

    /// One zstd frame; what follows it is padding. Returns whether all of `destination` was filled.
    private static func unpackZstd(
        _ packed: UnsafeRawBufferPointer, into destination: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let stream = ZSTD_createDStream() else { return false }
        defer { ZSTD_freeDStream(stream) }
        var input = ZSTD_inBuffer(src: packed.baseAddress, size: packed.count, pos: 0)
        var output = ZSTD_outBuffer(dst: destination.baseAddress, size: destination.count, pos: 0)
        while output.pos < output.size {
            let before = (input.pos, output.pos)
            let status = ZSTD_decompressStream(stream, &output, &input)
            if ZSTD_isError(status) != 0 || before == (input.pos, output.pos) { return false }
        }
        return true
    }

    private func failure(_ location: CompressedLocation, _ detail: String) -> BlockError {
        BlockError(
            .corrupt, "read a compressed cluster", on: file.path, range: location.range,
            detail: detail)
    }
}

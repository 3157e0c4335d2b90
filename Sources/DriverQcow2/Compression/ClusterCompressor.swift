import BlockCore
import CZlib
import CZstd

/// Packs clusters as the format wants them. One object serves one caller at a time.
final class ClusterCompressor {
    private let compression: Qcow2Header.Compression
    private let clusterBytes: Int
    /// At an address that does not change, which zlib insists on.
    private let deflater = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
    private let zstd: OpaquePointer?

    private static let deflateLevel: Int32 = 6
    private static let zstdLevel: Int32 = 3

    /// Fails only for want of memory, with `noSpace`.
    init(_ compression: Qcow2Header.Compression, clusterBytes: Int) throws(BlockError) {
        self.compression = compression
        self.clusterBytes = clusterBytes
        deflater.initialize(to: z_stream())
        switch compression {
        case .deflate:
            zstd = nil
            // Raw deflate with the window of 4 KiB that readers of the format are made for.
            let status = deflateInit2_(
                deflater, Self.deflateLevel, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY,
                ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
            guard status == Z_OK else { throw Self.noMemory }
        case .zstd:
            zstd = ZSTD_createCCtx()
            guard zstd != nil else { throw Self.noMemory }
        }
    }

    private static let noMemory = BlockError(.noSpace, "start compressing", on: "memory")

    deinit {
        if compression == .deflate { deflateEnd(deflater) }
        deflater.deallocate()
        if let zstd { ZSTD_freeCCtx(zstd) }
    }

    /// Packs `cluster`, one cluster long, to the start of `packed`, as long; returns how long the
    /// packed form is, or nil if it is no shorter.
    func pack(
        _ cluster: UnsafeRawBufferPointer, into packed: UnsafeMutableRawBufferPointer
    ) -> Int? {
        precondition(cluster.count == clusterBytes && packed.count >= clusterBytes)
        switch compression {
        case .deflate: return deflate(cluster, into: packed)
        case .zstd:
            let count = ZSTD_compressCCtx(
                zstd, packed.baseAddress, clusterBytes - 1, cluster.baseAddress, clusterBytes,
                Self.zstdLevel)
            return ZSTD_isError(count) == 0 ? count : nil
        }
    }

    private func deflate(
        _ cluster: UnsafeRawBufferPointer, into packed: UnsafeMutableRawBufferPointer
    ) -> Int? {
        guard deflateReset(deflater) == Z_OK else { return nil }
        // zlib does not write through `next_in`, though its type says that it may.
        deflater.pointee.next_in = UnsafeMutablePointer(
            mutating: cluster.baseAddress!.assumingMemoryBound(to: Bytef.self))
        deflater.pointee.avail_in = UInt32(clusterBytes)
        deflater.pointee.next_out = packed.baseAddress!.assumingMemoryBound(to: Bytef.self)
        deflater.pointee.avail_out = UInt32(clusterBytes - 1)
        guard CZlib.deflate(deflater, Z_FINISH) == Z_STREAM_END else { return nil }
        return clusterBytes - 1 - Int(deflater.pointee.avail_out)
    }
}

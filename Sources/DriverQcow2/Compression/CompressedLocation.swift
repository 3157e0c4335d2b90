import BlockCore

/// Where the compressed form of a cluster lies in the file.
struct CompressedLocation: Equatable {
    let offset: UInt64
    /// Up to the end of the last sector that it touches; the form itself may end before.
    let lengthBytes: UInt64

    init(entry: UInt64, clusterBits: Int) {
        let offsetBits = UInt64(62 - (clusterBits - 8))
        let sectorMask = (UInt64(1) << (62 - offsetBits)) - 1
        offset = entry & ((UInt64(1) << offsetBits) - 1)
        let moreSectors = (entry >> offsetBits) & sectorMask
        lengthBytes = (moreSectors + 1) * 512 - (offset & 511)
    }

    /// Throws unless an entry can name all of `range`: it has fewer bits for a compressed form than
    /// for a plain cluster, up to 512 TiB with the largest clusters.
    static func check(
        _ range: ByteRange, clusterBits: Int, on nodeName: String
    ) throws(BlockError) {
        let limit = UInt64(1) << UInt64(62 - (clusterBits - 8))
        guard range.end <= limit else {
            throw BlockError(
                .noSpace, "write compressed", on: nodeName, range: range,
                detail:
                    "an image with clusters of \(1 << clusterBits) bytes cannot have compressed "
                    + "ones beyond \(limit) bytes of the file: write them as they are")
        }
    }

    /// The entry for `packedBytes` at `offset`, for which `check` has passed.
    static func entry(offset: UInt64, packedBytes: Int, clusterBits: Int) -> UInt64 {
        let offsetBits = UInt64(62 - (clusterBits - 8))
        let moreSectors = (offset + UInt64(packedBytes) - 1) / 512 - offset / 512
        return Qcow2Layout.compressed | moreSectors << offsetBits | offset
    }

    var range: ByteRange { ByteRange(offset: offset, lengthBytes: lengthBytes) }
}

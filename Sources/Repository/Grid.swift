package import BlockCore

/// How a granularity becomes the units of a point's files.
package enum Grid {
    /// The longest volume that a manifest can describe.
    static let volumeBytesMax: UInt64 = 1 << 62

    private static let cellBytesMin: UInt64 = 4 << 10
    private static let cellBytesMax: UInt64 = 1 << 20
    private static let clusterBytesMax: UInt64 = 2 << 20

    /// The length of a digest cell: the granularity, clamped to 4 KiB to 1 MiB. It is constant
    /// along a chain.
    package static func cellBytes(granularityBytes: UInt64) -> UInt64 {
        min(max(granularityBytes, cellBytesMin), cellBytesMax)
    }

    /// The cluster size of an image: the granularity, clamped to 4 KiB to 2 MiB. Writes to a point
    /// are aligned to it; it is a whole number of cells.
    package static func clusterBytes(granularityBytes: UInt64) -> UInt64 {
        min(max(granularityBytes, cellBytesMin), clusterBytesMax)
    }

    /// The length of an image for a volume of `volumeBytes`: rounded up to 512, as QEMU cuts
    /// every other length.
    package static func imageBytes(volumeBytes: UInt64) -> UInt64 {
        volumeBytes.alignedUp(to: 512)
    }

    /// Whether `cellBytes` is a length that cells can have.
    static func isValid(_ cellBytes: UInt64) -> Bool {
        cellBytes.isPowerOfTwo && (cellBytesMin...cellBytesMax).contains(cellBytes)
    }

    /// The bytes that an increment must hold because the volume's length changed, whether or not
    /// they were written to: the cell in which the shorter of the two lengths ends, if it ends
    /// inside one. That cell has another length than in the parent, so its digest there says
    /// nothing any more. The range is aligned to clusters and cut at the new length; it is empty
    /// if nothing must be held.
    package static func rangeToHold(
        parentBytes: UInt64, volumeBytes: UInt64, granularityBytes: UInt64
    ) -> ByteRange {
        let edge = min(parentBytes, volumeBytes)
        let cell = cellBytes(granularityBytes: granularityBytes)
        guard parentBytes != volumeBytes, edge % cell != 0 else {
            return ByteRange(offset: 0, lengthBytes: 0)
        }
        let cluster = clusterBytes(granularityBytes: granularityBytes)
        let start = edge.alignedDown(to: cluster)
        return ByteRange(offset: start, end: min(start + cluster, volumeBytes))
    }
}

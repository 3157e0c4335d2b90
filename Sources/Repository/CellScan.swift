import BlockCore

/// What a piece of data comes to: the records of its cells, and which clusters of it to store.
///
/// Each byte is looked at twice, once for zeroes and once for the digest, both at memory speed;
/// the first look ends at the first byte that is not zero.
struct CellScan {
    /// The records of all cells, ascending; zero cells that touch share one.
    private(set) var records: [TableRecord] = []
    /// The piece in runs of whole clusters that are all zero, or are not.
    private(set) var runs: [Run] = []

    struct Run {
        var range: ByteRange
        var isZero: Bool
    }

    /// Scans `bytes`, the volume's content from `offset` on: whole cells, or up to its end.
    init(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64, header: DigestTableHeader,
        clusterBytes: UInt64
    ) {
        records.reserveCapacity(bytes.count / Int(header.gridBytes) + 1)
        var start = 0
        while start < bytes.count {
            let end = min(start + Int(clusterBytes), bytes.count)
            let cluster = UnsafeRawBufferPointer(rebasing: bytes[start..<end])
            let range = ByteRange(
                offset: offset + UInt64(start), lengthBytes: UInt64(cluster.count))
            let isZero = cluster.isAllZero
            if isZero {
                appendZero(range)
            } else {
                scanCells(cluster, at: range.offset, header)
            }
            appendRun(Run(range: range, isZero: isZero))
            start = end
        }
    }

    /// A piece that is known to be zeroes.
    init(zeroes range: ByteRange) {
        records = [TableRecord(range: range, digest: nil)]
        runs = [Run(range: range, isZero: true)]
    }

    private mutating func scanCells(
        _ cluster: UnsafeRawBufferPointer, at offset: UInt64, _ header: DigestTableHeader
    ) {
        var start = 0
        while start < cluster.count {
            let end = min(start + Int(header.gridBytes), cluster.count)
            let cell = UnsafeRawBufferPointer(rebasing: cluster[start..<end])
            let range = ByteRange(offset: offset + UInt64(start), lengthBytes: UInt64(cell.count))
            // A cluster of a single cell is known not to be zero.
            if cell.count < cluster.count && cell.isAllZero {
                appendZero(range)
            } else {
                records.append(
                    TableRecord(range: range, digest: header.algorithm.digest(of: cell)))
            }
            start = end
        }
    }

    private mutating func appendZero(_ range: ByteRange) {
        if let last = records.last, last.digest == nil, last.range.end == range.offset {
            records[records.count - 1].range.lengthBytes += range.lengthBytes
        } else {
            records.append(TableRecord(range: range, digest: nil))
        }
    }

    private mutating func appendRun(_ run: Run) {
        if let last = runs.last, last.isZero == run.isZero {
            runs[runs.count - 1].range.lengthBytes += run.range.lengthBytes
        } else {
            runs.append(run)
        }
    }
}

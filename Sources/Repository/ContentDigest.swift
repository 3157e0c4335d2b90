import BlockCore

/// The digest of what a volume reads as at a point, whichever files hold it.
///
/// It covers the point's id, size and time and every cell that is not zero, never the lineage: a
/// merge of the chain below changes nothing that a descendant is bound to. The README defines the
/// bytes.
struct ContentDigest {
    private var hash = SHA256Stream()
    private let digestBytes: Int
    private let rows = BufferPool.shared.take(64 << 10)
    private var filled = 0

    init(
        point: PointID, freeze: UTCTime, volumeBytes: UInt64, algorithm: DigestAlgorithm,
        gridBytes: UInt64
    ) {
        let fields = [
            "tidemark content 1", point.text, String(volumeBytes), freeze.text, algorithm.rawValue,
            String(gridBytes),
        ]
        hash.update(Array(fields.map { $0 + "\n" }.joined().utf8))
        digestBytes = algorithm.digestBytes
    }

    /// Adds the cell of data number `index`; cells come in ascending order.
    mutating func add(_ index: UInt64, _ digest: CellDigest) {
        if filled + 8 + digestBytes > rows.capacityBytes { flushRows() }
        let row = rows.slice.slice(filled, 8 + digestBytes).bytes
        row.storeBytes(of: index.littleEndian, as: UInt64.self)
        digest.store(into: UnsafeMutableRawBufferPointer(rebasing: row[8...]))
        filled += row.count
    }

    /// The digest as hexadecimal text.
    mutating func finish() -> String {
        flushRows()
        return hash.text
    }

    /// The content digest of a point that reads as `content`, which is read to
    /// its end; may block.
    static func of(
        _ content: PointContent, point: PointID, freeze: UTCTime, algorithm: DigestAlgorithm
    ) throws(BlockError) -> String {
        var digest = ContentDigest(
            point: point, freeze: freeze, volumeBytes: content.volumeBytes, algorithm: algorithm,
            gridBytes: content.gridBytes)
        while let piece = try content.next() {
            guard let cell = piece.digest else { continue }
            digest.add(piece.range.offset / content.gridBytes, cell)
        }
        return digest.finish()
    }

    private mutating func flushRows() {
        hash.update(rows.prefix(filled).readOnlyBytes)
        filled = 0
    }
}

import BlockCore

/// How many clusters the refcounts take that cover everything before them and themselves.
struct RefcountPlan {
    private(set) var blockCount: UInt64 = 0
    private(set) var tableClusters: UInt64 = 1
    /// All clusters of the file.
    private(set) var total: UInt64

    init(clustersBefore: UInt64, geometry: Qcow2Geometry, order: Int = 4) {
        let countsPerBlock = (geometry.clusterBytes * 8) >> UInt64(order)
        total = clustersBefore
        while true {
            total = clustersBefore + blockCount + tableClusters
            let blocks = (total + countsPerBlock - 1) / countsPerBlock
            let tables = geometry.clusters(for: blocks * 8)
            if blocks == blockCount && tables <= tableClusters { return }
            blockCount = blocks
            tableClusters = max(tables, 1)
        }
    }
}

/// The refcounts of an image that was written in one go: one for each cluster, but for those that
/// hold several compressed ones.
struct WriterRefcounts {
    /// By cluster; those beyond the end of the array have one reference.
    private var counts: [UInt16] = []

    static let countMax = UInt64(UInt16.max)

    /// Adds a compressed cluster that touches the clusters of `run`. Returns false, and adds
    /// nothing, if one of them cannot take another.
    mutating func add(_ run: ClusterRun) -> Bool {
        if UInt64(counts.count) < run.end {
            counts += Array(repeating: 0, count: Int(run.end) - counts.count)
        }
        let places = Int(run.first)..<Int(run.end)
        guard !counts[places].contains(.max) else { return false }
        for place in places { counts[place] += 1 }
        return true
    }

    /// Writes the blocks that count `total` clusters, one after the other from `offset` on.
    func writeBlocks(
        _ total: UInt64, at offset: UInt64, order: Int, clusterBytes: UInt64,
        file: any StorageFile
    ) throws(BlockError) {
        var ones = RefcountBlock(
            bytes: [UInt8](repeating: 0, count: Int(clusterBytes)), order: order)
        for index in 0..<ones.count { ones[index] = 1 }
        let countsPerBlock = UInt64(ones.count)
        var first: UInt64 = 0
        while first < total {
            var block = ones
            for index in 0..<ones.count {
                let cluster = first + UInt64(index)
                if cluster >= total {
                    block[index] = 0
                } else if cluster < UInt64(counts.count), counts[Int(cluster)] > 1 {
                    block[index] = UInt64(counts[Int(cluster)])
                } else if cluster >= UInt64(counts.count), total >= first + countsPerBlock {
                    break
                }
            }
            try block.bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: offset + first / countsPerBlock * clusterBytes, from: bytes)
            }
            first += countsPerBlock
        }
    }
}

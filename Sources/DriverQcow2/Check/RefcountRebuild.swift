import BlockCore

// The new structures go behind the end of the file. Where the file was cut off, entries may refer
// to just those places: what they lost would be found again as refcounts, or as zeroes, and nobody
// would ever know. Nothing is written then.

/// Writes all refcounts of an image anew, behind everything that is in the file, and switches the
/// header to them. Until the switch the image is what it was.
struct RefcountRebuild {
    let file: any StorageFile
    let header: StoredHeader
    /// Whether refcounts that are higher than the references found are kept: not all references
    /// could be found.
    let keepsUnknown: Bool
    /// Clusters to which the header will refer.
    var pending: Range<UInt64> = 0..<0

    /// Where the new structures go, in clusters.
    struct Plan {
        fileprivate let blocks: Range<UInt64>
        fileprivate let table: Range<UInt64>
    }

    /// Does it as planned. Everything is flushed when it returns.
    func run(_ plan: Plan) throws(BlockError) {
        // Counts of clusters that the file does not have are forgotten with the old structures.
        let refcounts = try RefcountReader(file: file, header: header)
        let bits = UInt64(header.clusterBits)
        for window in try Qcow2Check.windows(
            file: file, header: header, upTo: plan.table.upperBound)
        {
            let repair = ImageRepair(file: file, header: header)
            let counts = try repair.counts(in: window, refcounts, [])
            var cluster = window.lowerBound
            while cluster < window.upperBound {
                let number = cluster / refcounts.countsPerBlock
                let end = min((number + 1) * refcounts.countsPerBlock, window.upperBound)
                let block = try self.block(cluster..<end, counts, refcounts, plan)
                try block.bytes.withBytes { (bytes) throws(BlockError) in
                    try file.write(at: (plan.blocks.lowerBound + number) << bits, from: bytes)
                }
                cluster = end
            }
        }
        var table = plan.blocks.map { $0 << bits }
        let entries = plan.table.count << (header.clusterBits - 3)
        table += Array(repeating: 0, count: entries - table.count)
        try file.writeNumbers(table, at: plan.table.lowerBound << bits)
        try file.flush()
        try switchTable(to: plan.table)
    }

    /// Finds places for the new structures. Throws if something may refer to them already.
    func plan() throws(BlockError) -> Plan {
        let fileEnd = header.clusters(for: try file.sizeBytes())
        let start = max(fileEnd, pending.upperBound) + 1
        var blockCount: UInt64 = 1
        while true {
            let tableCount = header.clusters(for: blockCount * 8)
            let needed =
                (start + blockCount + tableCount + header.countsPerBlock - 1)
                / header.countsPerBlock
            if needed <= blockCount {
                guard tableCount << UInt64(header.clusterBits) <= Qcow2Layout.refcountTableBytesMax
                else {
                    throw BlockError(
                        .unsupported, "rebuild the refcounts", on: file.path,
                        detail: "the file is too large for its cluster size; "
                            + "copy the image with qemu-img convert")
                }
                let end = start + blockCount
                try checkUnclaimed(upTo: (end + tableCount) << UInt64(header.clusterBits))
                return Plan(blocks: start..<end, table: end..<end + tableCount)
            }
            blockCount = needed
        }
    }

    /// Throws if any metadata refers to something between the end of the file and `end`.
    private func checkUnclaimed(upTo end: UInt64) throws(BlockError) {
        var walk = try MetadataWalk(
            file: file, header: header,
            refcounts: try RefcountReader(file: file, header: header), scope: [], window: 0..<0,
            report: Qcow2CheckReport())
        try walk.run()
        guard let lowest = walk.lowestOutside, lowest < end else { return }
        throw BlockError(
            .corrupt, "repair", on: file.path,
            detail:
                "the file ends at \(walk.fileBytes), where it was perhaps cut off, and the image "
                + "refers to what should follow from \(lowest) on; new refcounts would take that "
                + "place. Restore the file from a copy, or save what can be read: "
                + "qemu-img convert --salvage")
    }

    private func block(
        _ clusters: Range<UInt64>, _ counts: ReferenceCounts, _ refcounts: RefcountReader,
        _ plan: Plan
    ) throws(BlockError) -> RefcountBlock {
        var block = RefcountBlock(
            bytes: [UInt8](repeating: 0, count: Int(header.clusterBytes)),
            order: header.refcountOrder)
        let new = plan.blocks.lowerBound..<plan.table.upperBound
        for cluster in clusters {
            var count = counts.count(of: cluster)
            if keepsUnknown { count = max(count, try refcounts.count(of: cluster) ?? 1) }
            if new.contains(cluster) || pending.contains(cluster) { count = 1 }
            if count > 0 {
                block[Int(cluster % header.countsPerBlock)] = min(count, header.refcountMax)
            }
        }
        return block
    }

    private func switchTable(to clusters: Range<UInt64>) throws(BlockError) {
        var field = [UInt8](repeating: 0, count: 12)
        // The two fields lie side by side: one write within a sector changes both or neither.
        try field.withMutableBytes { (bytes) throws(BlockError) in
            bytes.storeBigEndian(clusters.lowerBound << UInt64(header.clusterBits), at: 0)
            bytes.storeBigEndian(UInt32(clusters.count), at: 8)
            try file.writeDurably(
                at: UInt64(Qcow2Layout.Field.refcountTableOffset),
                from: UnsafeRawBufferPointer(bytes))
        }
    }
}

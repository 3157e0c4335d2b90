import BlockCore

/// What is known of an L2 table while its entries are followed.
struct TableUse {
    /// How many L1 entries refer to it.
    let times: UInt64
    /// Whether the image itself uses it, not only its snapshots.
    let isActive: Bool
    /// Where the guest has what its first entry maps; of a table that is shared, one such place.
    let guestOffset: UInt64
    /// Where the next cluster would be if the guest's clusters lay side by side.
    var nextOffset: UInt64 = 0
}

extension MetadataWalk {
    /// Counts what the entry `index` of an L2 table refers to.
    mutating func follow(
        _ entry: TableEntry, _ index: Int, _ use: inout TableUse
    ) throws(BlockError) {
        let kind = entry.kind(in: header)
        if kind != .compressed, entry.raw & Qcow2Layout.l2Reserved != 0 {
            note(
                .reservedBits, at: entry.offset, times: use.times,
                "an L2 table has an entry 0x\(String(entry.raw, radix: 16))")
        }
        if header.version == 2, kind == .plainZero || kind == .allocatedZero {
            note(
                .version, at: entry.offset, times: use.times,
                "a version 2 image has an entry for zeroes")
        }
        switch kind {
        case .unallocated:
            if entry.allocatedBits != 0 {
                note(.subclusters, at: 0, "an unallocated cluster has allocated subclusters")
            }
        case .plainZero: break
        case .compressed: followCompressed(entry, use)
        case .data, .allocatedZero:
            if header.hasExternalData {
                checkPlace(
                    entry, use.guestOffset + UInt64(index) << UInt64(header.clusterBits), use)
            }
            try followData(entry, kind, &use)
        }
    }

    private mutating func followCompressed(_ entry: TableEntry, _ use: TableUse) {
        let location = CompressedLocation(entry: entry.raw, clusterBits: header.clusterBits)
        if entry.isCopied {
            note(
                .copiedFlag, at: location.offset, times: use.times,
                "a compressed cluster is flagged as free to change in place")
        }
        guard !header.hasExternalData else {
            note(
                .subclusters, at: location.offset,
                "a compressed cluster, and external data")
            return
        }
        // Counted all the same: whoever reads the cluster reads it from there.
        if entry.subclusters != 0 {
            note(.subclusters, at: location.offset, "a compressed cluster has subclusters")
        }
        _ = refer(
            to: location.offset, location.lengthBytes, .data, times: use.times,
            "a compressed cluster")
        guard use.isActive, scope.contains(.findings) else { return }
        report.allocatedCount += use.times
        report.compressedCount += use.times
        // Compressed clusters never lie side by side as the guest's do.
        report.fragmentedCount += use.times
    }

    private mutating func followData(
        _ entry: TableEntry, _ kind: TableEntry.Kind, _ use: inout TableUse
    ) throws(BlockError) {
        if entry.allocatedBits & entry.zeroBits != 0 {
            note(
                .subclusters, at: entry.offset, times: use.times,
                "subclusters are allocated and zero at once")
        }
        if entry.offset % header.clusterBytes != 0 {
            note(
                .unaligned, at: entry.offset, times: use.times,
                "a data cluster is not at a cluster's start")
            report.isComplete = false
        }
        if use.isActive, scope.contains(.findings) {
            report.allocatedCount += use.times
            if use.nextOffset != 0, entry.offset != use.nextOffset {
                report.fragmentedCount += use.times
            }
            use.nextOffset = entry.offset + header.clusterBytes
        }
        if !header.hasExternalData {
            _ = refer(
                to: entry.offset, header.clusterBytes, .data, times: use.times, "a data cluster")
        }
        if use.isActive { try checkCopied(entry, ofTable: false, times: use.times) }
    }

    /// In an external data file every cluster is where the guest has it, and nowhere else.
    private mutating func checkPlace(
        _ entry: TableEntry, _ guestOffset: UInt64, _ use: TableUse
    ) {
        guard entry.offset != guestOffset || use.times > 1 else { return }
        note(
            .dataFile, at: entry.offset, times: use.times,
            "the external data of guest offset \(guestOffset) is said to be at \(entry.offset)")
    }

    /// Compares the flag that allows changes in place with the refcount that the image has: who
    /// writes trusts that, right or wrong.
    mutating func checkCopied(
        _ entry: TableEntry, ofTable isTable: Bool, times: UInt64 = 1
    ) throws(BlockError) {
        guard scope.contains(.findings), entry.offset != 0 || !isTable else { return }
        let isOnly: Bool
        if header.hasExternalData && !isTable {
            isOnly = true
        } else {
            let cluster = entry.offset >> UInt64(header.clusterBits)
            guard let count = try refcounts.count(of: cluster) else { return }
            isOnly = count == 1
        }
        guard isOnly != entry.isCopied else { return }
        note(
            .copiedFlag, at: entry.offset, times: times,
            "\(isTable ? "an L2 table" : "a data cluster") is flagged "
                + "\(entry.isCopied ? "as free" : "as not free") to change in place")
    }
}

package import BlockCore

// The consistency of an image: every reference in its metadata is counted and compared with the
// refcounts that the image has.
//
// The verdict is the one of `qemu-img check`, with two exceptions that QEMU lets pass: metadata that
// shares its cluster with something else is corrupt here even if its refcount admits both, and so is
// an entry for zeroes in a version 2 image.
//
// Memory: references are counted in windows of 32 million clusters, two bytes each. An image that has
// more (2 TiB of 64 KiB clusters) is read once for every window. With the tables in hand that makes
// less than 150 MiB, whatever the image says.

/// Checks qcow2 images, and repairs them.
package enum Qcow2Check {
    /// Higher, and walking an image would take forever; QEMU has the same limit.
    private static let clusterMax: UInt64 = 1 << 31

    /// Checks the image at `path`, which nobody may be writing. Blocks.
    ///
    /// Throws where the header leaves nothing to check.
    package static func run(path: String) throws(BlockError) -> Qcow2CheckReport {
        try run(file: HostFile(path: path, access: .readOnly))
    }

    /// Checks the image in `file`.
    static func run(file: any StorageFile) throws(BlockError) -> Qcow2CheckReport {
        let header = try StoredHeader(file: file)
        let refcounts = try RefcountReader(file: file, header: header)
        var report = Qcow2CheckReport()
        report.isMarkedDirty = header.isDirty
        report.isMarkedCorrupt = header.isCorrupt
        report.clusterCount = header.clusters(for: header.sizeBytes)
        if header.autoclear & Qcow2Layout.Autoclear.rawDataFile != 0 && !header.hasExternalData {
            report.add(
                .reservedBits, at: UInt64(Qcow2Layout.Field.autoclear),
                "the header speaks of a raw data file, and there is none")
        }
        // Refcounts of clusters that the file does not have count for nothing.
        let fileEnd = header.clusters(for: try file.sizeBytes())
        var end: UInt64 = 0
        for window in try windows(file: file, header: header) {
            let isFirst = window.lowerBound == 0
            var walk = try MetadataWalk(
                file: file, header: header, refcounts: refcounts,
                scope: isFirst ? [.refcounts, .findings] : .refcounts, window: window,
                report: report)
            try walk.run()
            report = walk.report
            let last = try compare(
                walk.counts, refcounts, header, fileEnd: fileEnd, into: &report)
            if let last { end = last + 1 }
        }
        report.imageEndBytes = end << UInt64(header.clusterBits)
        return report
    }

    /// The parts of the file that are looked at one after the other, each whole refcount blocks.
    static func windows(
        file: any StorageFile, header: StoredHeader, upTo end: UInt64 = 0
    ) throws(BlockError) -> [Range<UInt64>] {
        // One more than the file has: its last cluster may be there in part.
        let count = max(header.clusters(for: try file.sizeBytes()) + 1, end)
        guard count <= clusterMax else {
            throw BlockError(
                .unsupported, "check", on: file.path,
                detail: "the file has \(count) clusters, \(clusterMax) at most can be checked")
        }
        return stride(from: 0, to: count, by: Int(ReferenceCounts.windowMax)).map {
            $0..<min($0 + ReferenceCounts.windowMax, count)
        }
    }

    /// Compares references with refcounts; returns the last cluster that has either.
    private static func compare(
        _ counts: ReferenceCounts, _ refcounts: RefcountReader, _ header: StoredHeader,
        fileEnd: UInt64, into report: inout Qcow2CheckReport
    ) throws(BlockError) -> UInt64? {
        var last = counts.last
        var cluster = counts.window.lowerBound
        while cluster < counts.window.upperBound {
            let number = cluster / refcounts.countsPerBlock
            let end = min((number + 1) * refcounts.countsPerBlock, counts.window.upperBound)
            let block = try refcounts.block(number)
            // What stands in a block that cannot be found is unknown; the walk has said so.
            if !refcounts.isBroken(number) {
                for cluster in cluster..<end {
                    if cluster >= fileEnd && counts.count(of: cluster) == 0 { continue }
                    let stored = block?[Int(cluster % refcounts.countsPerBlock)] ?? 0
                    if stored > 0 { last = max(last ?? 0, cluster) }
                    compare(cluster, stored, counts, header, &report)
                }
            }
            cluster = end
        }
        return last
    }

    private static func compare(
        _ cluster: UInt64, _ stored: UInt64, _ counts: ReferenceCounts, _ header: StoredHeader,
        _ report: inout Qcow2CheckReport
    ) {
        let counted = counts.count(of: cluster)
        if counted == stored && counted <= 1 { return }
        let offset = cluster << UInt64(header.clusterBits)
        let kinds = counts.kinds(of: cluster)
        let isShared = kinds.contains(.exclusive) || kinds.isSuperset(of: [.table, .data])
        if counted > 1, isShared {
            report.add(.overlap, at: offset, "metadata shares the cluster with something else")
        }
        if counted > header.refcountMax {
            report.add(
                .refcountOverflow, at: offset, "\(counted) references; \(header.refcountMax) fit")
        }
        let expected = min(counted, header.refcountMax)
        if stored < expected {
            report.add(.refcountTooLow, at: offset, "refcount \(stored), references \(counted)")
        } else if stored > expected {
            report.add(.leak, at: offset, "refcount \(stored), references \(counted)")
        }
    }
}

import BlockCore

/// The steps of a repair, numbered as in the first comment of `Qcow2Repair`.
struct ImageRepair {
    let file: any StorageFile
    let header: StoredHeader

    /// Steps 1 to 4.
    func repairAll(_ report: Qcow2CheckReport) throws(BlockError) {
        guard report.verdict != .clean else { return }
        guard !report.kinds.contains(.refcountOverflow) else {
            throw BlockError(
                .unsupported, "repair", on: file.path,
                detail: "a cluster has more references than \(1 << header.refcountOrder)-bit "
                    + "refcounts can count; copy the image with qemu-img convert")
        }
        typealias Bits = Qcow2Layout.Autoclear
        let known = header.hasExternalData ? Bits.bitmaps | Bits.rawDataFile : Bits.bitmaps
        if header.autoclear & ~known != 0 {
            try writeNumber(header.autoclear & known, at: Qcow2Layout.Field.autoclear)
        }
        if report.kinds.contains(.snapshotTable) { try renewSnapshotTable() }
        // Every step may have changed where the header says that things are.
        try ImageRepair(file: file, header: try StoredHeader(file: file)).straightenEntries()
        try ImageRepair(file: file, header: try StoredHeader(file: file)).repairRefcounts()
        try ImageRepair(file: file, header: try StoredHeader(file: file)).setFlags()
    }

    /// Step 3.
    private func repairRefcounts() throws(BlockError) {
        let report = try Qcow2Check.run(file: file)
        if !report.kinds.isDisjoint(with: [.refcountTooLow, .refcountBlock, .overlap]) {
            let rebuild = RefcountRebuild(
                file: file, header: header, keepsUnknown: !report.isComplete)
            try rebuild.run(try rebuild.plan())
        } else if report.leakCount > 0 && report.isComplete {
            try lowerRefcounts()
        }
    }

    /// Writes the snapshot table anew to the end of the file, and then the refcounts that count it;
    /// only then the header refers to it. What the old one took is leaked until step 3.
    private func renewSnapshotTable() throws(BlockError) {
        let table: StoredSnapshots
        do throws(BlockError) {
            table = try StoredSnapshots(file: file, header: header, cut: true)
        } catch {
            guard error.kind == .corrupt else { throw error }
            return
        }
        let first = header.clusters(for: try file.sizeBytes())
        let bytes = table.encoded(diskBytes: header.sizeBytes)
        let place = first << UInt64(header.clusterBits)
        var rebuild = RefcountRebuild(file: file, header: header, keepsUnknown: true)
        rebuild.pending = first..<first + header.clusters(for: UInt64(bytes.count))
        let plan = try rebuild.plan()
        try bytes.withBytes { (bytes) throws(BlockError) in try file.write(at: place, from: bytes) }
        try rebuild.run(plan)
        var field = [UInt8](repeating: 0, count: 12)
        try field.withMutableBytes { (field) throws(BlockError) in
            field.storeBigEndian(UInt32(table.snapshots.count), at: 0)
            field.storeBigEndian(bytes.isEmpty ? 0 : place, at: 4)
            try file.writeDurably(
                at: UInt64(Qcow2Layout.Field.snapshotCount), from: UnsafeRawBufferPointer(field))
        }
    }

    /// Lowers every refcount that is higher than there are references.
    func lowerRefcounts() throws(BlockError) {
        let refcounts = try RefcountReader(file: file, header: header)
        for window in try Qcow2Check.windows(file: file, header: header) {
            let counts = try self.counts(in: window, refcounts, .refcounts)
            var cluster = window.lowerBound
            while cluster < window.upperBound {
                let number = cluster / refcounts.countsPerBlock
                let end = min((number + 1) * refcounts.countsPerBlock, window.upperBound)
                try lower(number, cluster..<end, counts, refcounts)
                cluster = end
            }
        }
        try file.flush()
    }

    private func lower(
        _ number: UInt64, _ clusters: Range<UInt64>, _ counts: ReferenceCounts,
        _ refcounts: RefcountReader
    ) throws(BlockError) {
        guard var block = try refcounts.block(number), let offset = refcounts.blockOffset(number)
        else { return }
        var hasChanged = false
        for cluster in clusters {
            let index = Int(cluster % refcounts.countsPerBlock)
            let counted = counts.count(of: cluster)
            guard block[index] > counted else { continue }
            block[index] = counted
            hasChanged = true
        }
        guard hasChanged else { return }
        try block.bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: offset, from: bytes)
        }
    }

    /// Step 2. Offsets and data stay; what goes are bits without a meaning, the flag on compressed
    /// clusters, and the storage of zeroes that is not at a cluster's start.
    private func straightenEntries() throws(BlockError) {
        let header = header
        try rewrite(snapshots: true) { entry, isTable in
            var entry = entry
            if isTable {
                entry.raw &= ~Qcow2Layout.l1Reserved
                return entry
            }
            let kind = entry.kind(in: header)
            if kind == .compressed {
                entry.raw &= ~Qcow2Layout.copied
                return entry
            }
            entry.raw &= ~Qcow2Layout.l2Reserved
            let hasData = header.hasExtendedL2 ? entry.allocatedBits != 0 : kind == .data
            if !hasData, entry.offset % header.clusterBytes != 0 {
                entry.raw = header.hasExtendedL2 ? 0 : Qcow2Layout.zero
            }
            return entry
        }
    }

    /// Step 4.
    func setFlags() throws(BlockError) {
        let header = header
        let refcounts = try RefcountReader(file: file, header: header)
        try rewrite(snapshots: false) { (entry, isTable) throws(BlockError) in
            var entry = entry
            let kind = entry.kind(in: header)
            if isTable ? entry.offset == 0 : kind != .data && kind != .allocatedZero {
                return entry
            }
            let cluster = entry.offset >> UInt64(header.clusterBits)
            let isExternal = header.hasExternalData && !isTable
            let count: UInt64? = isExternal ? 1 : try refcounts.count(of: cluster)
            guard let count else { return entry }
            entry.raw &= ~Qcow2Layout.copied
            if count == 1 { entry.raw |= Qcow2Layout.copied }
            return entry
        }
    }

    /// Step 5: the image is as it should be.
    func clearMarks() throws(BlockError) {
        guard header.isDirty || header.isCorrupt else { return }
        typealias Bits = Qcow2Layout.Incompatible
        try writeNumber(
            header.incompatible & ~(Bits.dirty | Bits.corrupt), at: Qcow2Layout.Field.incompatible)
    }

    /// The references to the clusters of `window`.
    func counts(
        in window: Range<UInt64>, _ refcounts: RefcountReader, _ scope: MetadataWalk.Scope
    ) throws(BlockError) -> ReferenceCounts {
        var walk = try MetadataWalk(
            file: file, header: header, refcounts: refcounts, scope: scope, window: window,
            report: Qcow2CheckReport())
        try walk.run()
        return walk.counts
    }

    private func rewrite(
        snapshots: Bool,
        _ change: (TableEntry, _ isTable: Bool) throws(BlockError) -> TableEntry
    ) throws(BlockError) {
        let refcounts = try RefcountReader(file: file, header: header)
        for window in try Qcow2Check.windows(file: file, header: header) {
            let rewrite = EntryRewrite(
                file: file, header: header, counts: try counts(in: window, refcounts, .refcounts))
            try rewrite.run(snapshots: snapshots, change)
        }
        try file.flush()
    }

    private func writeNumber(_ number: UInt64, at offset: Int) throws(BlockError) {
        try file.flush()
        try file.writeNumbers([number], at: UInt64(offset), durably: true)
    }
}

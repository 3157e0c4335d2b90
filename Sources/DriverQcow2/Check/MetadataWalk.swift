import BlockCore

// Follows every reference in an image's metadata, once, and counts it.
//
// L1 tables refer to L2 tables, those to data. Tables of snapshots share what they refer to, so the
// offsets of L2 tables are gathered first, sorted, and each table is read once for all who refer to
// it. Up to two million of them (32 MiB) are gathered; an image with more may have some tables read
// again. No table is read that lies outside the file, and the L1 tables and bitmap tables together
// are not read beyond the size of the file, so that a hostile image cannot make the walk long.

/// A walk over the metadata of an image.
struct MetadataWalk {
    /// What to follow.
    struct Scope: OptionSet {
        let rawValue: Int

        /// The refcount table and its blocks, too.
        static let refcounts = Scope(rawValue: 1)
        /// Say what is wrong, not only count.
        static let findings = Scope(rawValue: 2)
    }

    private static let gatheredMax = 2 << 20

    /// A table to read, and which one of its L1 table it is.
    private struct GatheredTable {
        let offset: UInt64
        let l1Index: UInt32
    }

    let file: any StorageFile
    let header: StoredHeader
    let refcounts: RefcountReader
    let scope: Scope
    let fileBytes: UInt64
    var counts: ReferenceCounts
    var report: Qcow2CheckReport
    /// The lowest place beyond the end of the file that something refers to; nil if nothing does.
    private(set) var lowestOutside: UInt64?

    /// Bytes of L1 and bitmap tables that may still be read.
    private var tableBytesLeft: UInt64
    private var gathered: [GatheredTable] = []

    init(
        file: any StorageFile, header: StoredHeader, refcounts: RefcountReader, scope: Scope,
        window: Range<UInt64>, report: Qcow2CheckReport
    ) throws(BlockError) {
        self.file = file
        self.header = header
        self.refcounts = refcounts
        self.scope = scope
        self.report = report
        fileBytes = try file.sizeBytes()
        tableBytesLeft = fileBytes
        counts = ReferenceCounts(window: window)
    }

    /// Follows everything.
    mutating func run() throws(BlockError) {
        _ = refer(to: 0, header.clusterBytes, .exclusive, "the header")
        try walkL1(header.l1Offset, UInt64(header.l1Count), isActive: true, "the L1 table")
        try walkSnapshots()
        if scope.contains(.refcounts) { walkRefcounts() }
        try walkBitmaps()
        guard !counts.isOverflowing else {
            throw BlockError(
                .unsupported, "check", on: file.path,
                detail:
                    "more than \(ReferenceCounts.largeMax) clusters have thousands of references "
                    + "each; copy the image with qemu-img convert, which leaves snapshots behind")
        }
    }

    /// Counts a finding, unless this walk only counts references.
    mutating func note(
        _ kind: Qcow2Finding.Kind, at offset: UInt64, times: UInt64 = 1,
        _ detail: @autoclosure () -> String
    ) {
        if scope.contains(.findings) {
            report.add(kind, at: offset, times: times, detail())
        }
    }

    /// Counts references to `length` bytes at `offset`. Returns whether they are in the file; where
    /// they are not, the offset is damaged and what it should be is unknown. The last cluster may
    /// be there in part, because files end where the last write did.
    mutating func refer(
        to offset: UInt64, _ length: UInt64, _ kind: ReferenceKind, times: UInt64 = 1,
        _ what: @autoclosure () -> String
    ) -> Bool {
        guard length > 0 else { return true }
        let (end, overflow) = offset.addingReportingOverflow(length)
        guard !overflow, end < fileBytes + header.clusterBytes else {
            note(.outsideFile, at: offset, times: times, "\(what()) is beyond the end of the file")
            report.isComplete = false
            remember(outside: offset, length)
            return false
        }
        let bits = UInt64(header.clusterBits)
        counts.add(offset >> bits..<((end - 1) >> bits) + 1, kind, times: times)
        return true
    }

    /// Remembers `length` bytes at `offset` that are not followed, as far as they are not in the
    /// file.
    private mutating func remember(outside offset: UInt64, _ length: UInt64) {
        let (end, overflow) = offset.addingReportingOverflow(length)
        guard overflow || end > fileBytes else { return }
        lowestOutside = min(lowestOutside ?? .max, max(offset, fileBytes))
    }

    private mutating func walkL1(
        _ offset: UInt64, _ count: UInt64, isActive: Bool, _ name: String
    ) throws(BlockError) {
        guard count > 0 else { return }
        guard refer(to: offset, count * 8, .exclusive, name) else { return }
        guard takeTableBytes(count * 8, at: offset, name) else { return }
        var done: UInt64 = 0
        while done < count {
            let piece = min(count - done, 64 << 10)
            let entries = try file.readNumbers(Int(piece), at: offset + done * 8)
            for (index, entry) in entries.enumerated() where entry != 0 {
                if entry & Qcow2Layout.l1Reserved != 0 {
                    note(
                        .reservedBits, at: offset,
                        "\(name) has an entry 0x\(String(entry, radix: 16))")
                }
                if isActive { try checkCopied(TableEntry(raw: entry), ofTable: true) }
                gathered.append(
                    GatheredTable(
                        offset: entry & Qcow2Layout.offsetMask,
                        l1Index: UInt32(done) + UInt32(index)))
                if gathered.count == Self.gatheredMax { try walkGathered(isActive: isActive) }
            }
            done += piece
        }
        if isActive { try walkGathered(isActive: true) }
    }

    /// Reads each L2 table that was gathered, once.
    private mutating func walkGathered(isActive: Bool) throws(BlockError) {
        gathered.sort { $0.offset < $1.offset }
        var index = 0
        while index < gathered.count {
            let first = gathered[index]
            var times: UInt64 = 0
            while index < gathered.count, gathered[index].offset == first.offset {
                index += 1
                times += 1
            }
            let tableBytes = UInt64(header.l2EntryCount) << UInt64(header.clusterBits)
            let use = TableUse(
                times: times, isActive: isActive,
                guestOffset: UInt64(first.l1Index) * tableBytes)
            try walkL2(at: first.offset, use)
        }
        gathered.removeAll(keepingCapacity: true)
    }

    private mutating func walkL2(at offset: UInt64, _ use: TableUse) throws(BlockError) {
        let isInside = refer(
            to: offset, header.clusterBytes, .table, times: use.times, "an L2 table")
        guard offset % header.clusterBytes == 0 else {
            note(
                .unaligned, at: offset, times: use.times, "an L2 table is not at a cluster's start")
            report.isComplete = false
            return
        }
        guard isInside, offset != 0 else {
            report.isComplete = false
            return
        }
        let table = try EntryTable(file: file, header: header, at: offset)
        var use = use
        var index = table.next(from: 0)
        while let used = index {
            try follow(table[used], used, &use)
            index = table.next(from: used + 1)
        }
    }

    private mutating func walkSnapshots() throws(BlockError) {
        let table: StoredSnapshots
        do throws(BlockError) {
            table = try StoredSnapshots(file: file, header: header)
        } catch {
            guard error.kind == .corrupt else { throw error }
            note(.snapshotTable, at: header.snapshotOffset, error.detail ?? "it cannot be read")
            report.isComplete = false
            // What is beyond a limit can be cut; what cannot be read even so is beyond the end.
            if (try? StoredSnapshots(file: file, header: header, cut: true)) == nil {
                remember(outside: header.snapshotOffset, .max)
            }
            return
        }
        if header.hasExternalData && !table.snapshots.isEmpty {
            note(
                .snapshotTable, at: header.snapshotOffset, "snapshots, and external data")
        }
        for (index, snapshot) in table.snapshots.enumerated() {
            if header.version >= 3, snapshot.extraBytes < StoredSnapshots.extraBytesOfVersion3 {
                note(.snapshotTable, at: header.snapshotOffset, "entry \(index) is incomplete")
            }
            let bytes = UInt64(snapshot.l1Count) * 8
            if bytes == 0 && snapshot.l1Offset % header.clusterBytes == 0 { continue }
            guard snapshot.l1Offset % header.clusterBytes == 0, bytes <= Qcow2Layout.l1BytesMax
            else {
                note(
                    .snapshotL1, at: snapshot.l1Offset,
                    "the L1 table of snapshot \(index) has \(bytes) bytes at \(snapshot.l1Offset)")
                report.isComplete = false
                remember(outside: snapshot.l1Offset, bytes)
                continue
            }
            try walkL1(
                snapshot.l1Offset, UInt64(snapshot.l1Count), isActive: false,
                "the L1 table of snapshot \(index)")
        }
        try walkGathered(isActive: false)
        _ = refer(to: header.snapshotOffset, table.lengthBytes, .exclusive, "the snapshot table")
    }

    private mutating func walkRefcounts() {
        let tableBytes = UInt64(header.refcountTableClusters) * header.clusterBytes
        if tableBytes == 0 { note(.refcountBlock, at: 0, "there is no refcount table") }
        _ = refer(to: header.refcountTableOffset, tableBytes, .exclusive, "the refcount table")
        for (number, entry) in refcounts.table.enumerated() where entry != 0 {
            guard entry & Qcow2Layout.refcountTableReserved == 0, entry % header.clusterBytes == 0
            else {
                note(
                    .refcountBlock, at: entry, "refcount block \(number) is at \(entry)")
                continue
            }
            guard entry < fileBytes.alignedUp(to: header.clusterBytes) else {
                note(.refcountBlock, at: entry, "refcount block \(number) is outside the file")
                continue
            }
            _ = refer(to: entry, header.clusterBytes, .exclusive, "refcount block \(number)")
        }
    }

    private mutating func walkBitmaps() throws(BlockError) {
        let directory: StoredBitmaps?
        do throws(BlockError) {
            directory = try StoredBitmaps(file: file, header: header)
        } catch {
            guard error.kind == .corrupt else { throw error }
            note(.bitmaps, at: 0, error.detail ?? "the directory cannot be read")
            report.isComplete = false
            if let place = StoredBitmaps.place(in: header) {
                remember(outside: place.offset, place.lengthBytes)
            }
            return
        }
        guard let directory else { return }
        _ = refer(
            to: directory.offset, directory.lengthBytes, .exclusive, "the bitmap directory")
        for bitmap in directory.bitmaps { try walkBitmap(bitmap) }
    }

    private mutating func walkBitmap(_ bitmap: Qcow2Bitmap) throws(BlockError) {
        let name = "the table of bitmap '\(bitmap.name)'"
        let count = UInt64(bitmap.tableCount)
        guard refer(to: bitmap.tableOffset, count * 8, .exclusive, name) else { return }
        guard takeTableBytes(count * 8, at: bitmap.tableOffset, name) else { return }
        var done: UInt64 = 0
        while done < count {
            let piece = min(count - done, 64 << 10)
            let offset = bitmap.tableOffset + done * 8
            for entry in try file.readNumbers(Int(piece), at: offset) where entry != 0 {
                let place = entry & Qcow2Layout.offsetMask
                guard entry & StoredBitmaps.entryReserved == 0,
                    place % header.clusterBytes == 0, place == 0 || entry & 1 == 0
                else {
                    note(.bitmaps, at: offset, "\(name) has an entry \(entry)")
                    report.isComplete = false
                    continue
                }
                if place == 0 { continue }
                _ = refer(to: place, header.clusterBytes, .exclusive, "a piece of a bitmap")
            }
            done += piece
        }
    }

    /// Takes `bytes` off what may be read of tables that must not lie on one another.
    private mutating func takeTableBytes(
        _ bytes: UInt64, at offset: UInt64, _ name: String
    ) -> Bool {
        guard bytes <= tableBytesLeft else {
            note(.overlap, at: offset, "\(name): the tables together are larger than the file")
            report.isComplete = false
            return false
        }
        tableBytesLeft -= bytes
        return true
    }
}

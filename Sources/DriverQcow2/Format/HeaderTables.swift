import BlockCore

/// The tables that a header names: each must lie inside the file, on cluster boundaries, and on
/// nothing else.
struct HeaderTables {
    private let header: Qcow2Header
    private let file: any StorageFile
    private let fileBytes: UInt64

    init(_ header: Qcow2Header, file: any StorageFile, fileBytes: UInt64) {
        self.header = header
        self.file = file
        self.fileBytes = fileBytes
    }

    func check() throws(BlockError) {
        let needed = header.geometry.l1Count
        guard UInt64(header.l1Count) >= needed else {
            throw corrupt("an L1 table of \(header.l1Count) entries, \(needed) needed")
        }
        guard header.refcountTableClusters > 0 else { throw corrupt("there is no refcount table") }
        var tables = [
            ("header", ByteRange(offset: 0, lengthBytes: header.clusterBytes)),
            (
                "L1 table",
                try place(
                    "L1 table", at: header.l1Offset, bytes: UInt64(header.l1Count) * 8,
                    max: Qcow2Layout.l1BytesMax)
            ),
            (
                "refcount table",
                try place(
                    "refcount table", at: header.refcountTableOffset,
                    bytes: UInt64(header.refcountTableClusters) * header.clusterBytes,
                    max: Qcow2Layout.refcountTableBytesMax)
            ),
        ]
        let snapshots = try SnapshotTable(file: file, header: header)
        tables.append(("snapshot table", snapshots.place))
        tables += snapshots.snapshots.map {
            (
                "L1 table of a snapshot",
                ByteRange(offset: $0.l1Offset, lengthBytes: UInt64($0.l1Count) * 8)
            )
        }
        tables = tables.filter { !$0.1.isEmpty }.sorted { $0.1.offset < $1.1.offset }
        for (one, next) in zip(tables, tables.dropFirst()) where one.1.overlaps(next.1) {
            throw corrupt("the \(one.0) (\(one.1)) overlaps the \(next.0) (\(next.1))")
        }
    }

    private func place(
        _ name: String, at offset: UInt64, bytes: UInt64, max: UInt64
    ) throws(BlockError) -> ByteRange {
        guard bytes > 0 else { return ByteRange(offset: 0, lengthBytes: 0) }
        guard bytes <= max else {
            throw corrupt("the \(name) has \(bytes) bytes; at most \(max) are allowed")
        }
        guard offset >= header.clusterBytes, offset % header.clusterBytes == 0,
            offset < fileBytes, bytes <= fileBytes - offset
        else { throw corrupt("the \(name) (\(bytes) bytes at \(offset)) is not inside the file") }
        return ByteRange(offset: offset, lengthBytes: bytes)
    }

    private func corrupt(_ detail: String) -> BlockError {
        BlockError(.corrupt, "read the header", on: file.path, detail: detail)
    }
}

import BlockCore

/// The internal snapshots of an image, as far as others must keep off them.
struct SnapshotTable: Sendable {
    /// Where a snapshot keeps its L1 table.
    struct Snapshot: Sendable {
        let l1Offset: UInt64
        let l1Count: UInt32
        /// The size of the disk then; nil where the table does not say.
        let sizeBytes: UInt64?
    }

    private(set) var snapshots: [Snapshot] = []
    /// The bytes of the table in the file.
    private(set) var place = ByteRange(offset: 0, lengthBytes: 0)

    private static let fixedBytes = 40
    private static let extraBytesMax: UInt32 = 1024
    private static let bytesMax: UInt64 = 64 << 20

    /// Reads the table that `header` names.
    init(file: any StorageFile, header: Qcow2Header) throws(BlockError) {
        guard header.snapshotCount > 0 else { return }
        let fileBytes = try file.sizeBytes()
        func corrupt(_ detail: String) -> BlockError {
            BlockError(.corrupt, "read the snapshot table", on: file.path, detail: detail)
        }
        guard header.snapshotCount <= Qcow2Layout.snapshotsMax else {
            throw corrupt("\(header.snapshotCount) snapshots are more than the format allows")
        }
        guard header.snapshotOffset % header.clusterBytes == 0 else {
            throw corrupt("it is said to be at \(header.snapshotOffset)")
        }
        var offset = header.snapshotOffset
        for index in 0..<header.snapshotCount {
            guard offset < fileBytes, fileBytes - offset >= UInt64(Self.fixedBytes) else {
                throw corrupt("snapshot \(index) is beyond the end of the file")
            }
            var bytes = [UInt8](repeating: 0, count: Self.fixedBytes + 16)
            try bytes.withMutableBytes { (bytes) throws(BlockError) in
                try file.read(at: offset, into: bytes)
            }
            let (snapshot, length) = bytes.withUnsafeBytes { bytes in
                let extra = bytes.bigEndian(at: 36, as: UInt32.self)
                let snapshot = Snapshot(
                    l1Offset: bytes.bigEndian(at: 0), l1Count: bytes.bigEndian(at: 8),
                    sizeBytes: extra >= 16 ? bytes.bigEndian(at: 48) : nil)
                let names =
                    UInt64(bytes.bigEndian(at: 12, as: UInt16.self))
                    + UInt64(bytes.bigEndian(at: 14, as: UInt16.self))
                return extra <= Self.extraBytesMax
                    ? (snapshot, UInt64(Self.fixedBytes) + UInt64(extra) + names) : (snapshot, 0)
            }
            guard length > 0, length <= fileBytes - offset,
                offset + length - header.snapshotOffset <= Self.bytesMax
            else { throw corrupt("snapshot \(index) is too long, or the table is") }
            guard UInt64(snapshot.l1Count) * 8 <= Qcow2Layout.l1BytesMax,
                snapshot.l1Offset % header.clusterBytes == 0,
                snapshot.l1Offset <= fileBytes,
                UInt64(snapshot.l1Count) * 8 <= fileBytes - snapshot.l1Offset
            else { throw corrupt("the L1 table of snapshot \(index) is not inside the file") }
            snapshots.append(snapshot)
            offset += length.alignedUp(to: 8)
        }
        place = ByteRange(offset: header.snapshotOffset, end: min(offset, fileBytes))
    }
}

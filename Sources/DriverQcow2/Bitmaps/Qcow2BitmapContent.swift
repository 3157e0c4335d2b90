package import BlockCore

// A persistent bitmap in an image: a table of clusters that hold one bit for each granule, the first
// in the lowest bit of the first byte. An entry without a cluster stands for a whole cluster of
// clean bits, or of dirty ones if its lowest bit is set.

/// The bits of a dirty bitmap that QEMU keeps in an image.
package struct Qcow2BitmapContent {
    private let file: HostFile
    private let header: StoredHeader
    private let bitmap: Qcow2Bitmap

    /// All bitmaps of the image at `path`; none where the format says that the list is not true.
    /// Throws `corrupt` if it contradicts itself. Blocks.
    package static func all(path: String) throws(BlockError) -> [Qcow2BitmapContent] {
        let file = try HostFile(path: path, access: .readOnly)
        let header = try StoredHeader(file: file)
        return try (StoredBitmaps(file: file, header: header)?.bitmaps ?? []).map {
            Qcow2BitmapContent(file: file, header: header, bitmap: $0)
        }
    }

    package var name: String { bitmap.name }
    package var granularityBytes: UInt64 { bitmap.granularityBytes }
    /// Whether its bits cannot be trusted: whoever wrote the image last did not store them.
    package var isInUse: Bool { bitmap.isInUse }
    /// Whether it records writes while the image is open.
    package var isAutomatic: Bool { bitmap.isAutomatic }

    /// Calls `body` with runs of dirty bytes, in order, none beyond the end of the image. Blocks.
    package func forEachDirtyRange(_ body: (ByteRange) -> Void) throws(BlockError) {
        let coverageBytes = header.clusterBytes * 8 * granularityBytes
        var offset: UInt64 = 0
        for index in 0..<UInt64(bitmap.tableCount) where offset < header.sizeBytes {
            let entry = try file.readNumbers(1, at: bitmap.tableOffset + index * 8)[0]
            let range = ByteRange(
                offset: offset, end: min(offset + coverageBytes, header.sizeBytes))
            try forEachDirtyRange(of: entry, range, body)
            offset += coverageBytes
        }
    }

    private func forEachDirtyRange(
        of entry: UInt64, _ range: ByteRange, _ body: (ByteRange) -> Void
    ) throws(BlockError) {
        let place = entry & ~1
        guard entry & StoredBitmaps.entryReserved == 0, place % header.clusterBytes == 0,
            place == 0 || entry & 1 == 0
        else { throw failure("a table entry is 0x\(String(entry, radix: 16))") }
        guard place != 0 else {
            if entry & 1 != 0 { body(range) }
            return
        }
        guard try place <= file.sizeBytes() else {
            throw failure("its bits are said to be at \(place)")
        }
        let bytes = try file.readBytes(Int(header.clusterBytes), at: place)
        for (index, byte) in bytes.enumerated() where byte != 0 {
            for bit in 0..<8 where byte & (1 << bit) != 0 {
                let offset = range.offset + UInt64(index * 8 + bit) * granularityBytes
                guard offset < range.end else { return }
                body(ByteRange(offset: offset, end: min(offset + granularityBytes, range.end)))
            }
        }
    }

    private func failure(_ detail: String) -> BlockError {
        BlockError(.corrupt, "read bitmap '\(name)'", on: file.path, detail: detail)
    }
}

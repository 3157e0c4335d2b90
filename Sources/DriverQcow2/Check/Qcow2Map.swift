package import BlockCore

/// Where an image has the content of its guest bytes, read from its tables without opening it.
package final class Qcow2Map {
    /// A run of guest bytes with one answer.
    package struct Run: Equatable, Sendable {
        /// What the image has for a run.
        package enum Kind: Sendable {
            /// Nothing: the backing file shows, or zeroes.
            case unallocated
            case zero
            case data
            case compressed
        }

        package let range: ByteRange
        package let kind: Kind
        /// Where storage for it starts, if there is any in one piece.
        package let hostOffset: UInt64?
    }

    package let sizeBytes: UInt64
    /// The file that has the data: the image's own path, or that of the external data file.
    package let dataPath: String

    private let file: any StorageFile
    private let header: StoredHeader
    private let l1: [UInt64]
    /// The table that was looked at last, by its L1 index.
    private var table: (index: Int, entries: EntryTable)?

    /// Reads the header and the L1 table of the image at `path`. Blocks.
    package convenience init(path: String) throws(BlockError) {
        try self.init(file: HostFile(path: path, access: .readOnly))
    }

    /// Reads the header and the L1 table of the image in `file`.
    init(file: any StorageFile) throws(BlockError) {
        let header = try StoredHeader(file: file)
        self.file = file
        self.header = header
        sizeBytes = header.sizeBytes
        if header.hasExternalData,
            let name = header.text(of: StoredHeader.ExtensionType.dataFile)
        {
            let folder = file.path.lastIndex(of: "/").map { file.path[...$0] } ?? ""
            dataPath = name.hasPrefix("/") ? name : folder + name
        } else {
            dataPath = file.path
        }
        l1 = try file.readNumbers(Int(header.l1Count), at: header.l1Offset)
    }

    /// The run that starts at `offset`, up to `end` at most; it may end earlier. Blocks.
    package func run(at offset: UInt64, end: UInt64) throws(BlockError) -> Run {
        let unit = header.hasExtendedL2 ? header.clusterBytes / 32 : header.clusterBytes
        let cover = UInt64(header.l2EntryCount) << UInt64(header.clusterBits)
        let index = Int(offset / cover)
        let end = min(end, UInt64(index + 1) * cover)
        let l2Offset = l1[index] & Qcow2Layout.offsetMask
        guard l2Offset != 0 else {
            return Run(
                range: ByteRange(offset: offset, end: end), kind: .unallocated, hostOffset: nil)
        }
        let entries = try entries(index, at: l2Offset)
        let first = answer(at: offset, in: entries)
        var position = (offset / unit + 1) * unit
        while position < end {
            let next = answer(at: position, in: entries)
            guard next.kind == first.kind,
                next.host == first.host.map({ $0 + (position - offset) })
            else { break }
            position += unit
        }
        return Run(
            range: ByteRange(offset: offset, end: min(position, end)), kind: first.kind,
            hostOffset: first.host)
    }

    private func entries(_ index: Int, at offset: UInt64) throws(BlockError) -> EntryTable {
        if let table, table.index == index { return table.entries }
        guard offset % header.clusterBytes == 0, offset < (try file.sizeBytes()) else {
            throw BlockError(
                .corrupt, "map", on: file.path,
                detail: "an L2 table is said to be at \(offset); "
                    + "run `tidemark image check \(file.path)`")
        }
        let entries = try EntryTable(file: file, header: header, at: offset)
        table = (index, entries)
        return entries
    }

    private func answer(
        at offset: UInt64, in entries: EntryTable
    ) -> (kind: Run.Kind, host: UInt64?) {
        let cluster = offset >> UInt64(header.clusterBits)
        let within = offset & (header.clusterBytes - 1)
        let entry = entries[Int(cluster) & (entries.count - 1)]
        let host = entry.offset + within
        switch entry.kind(in: header) {
        case .compressed: return (.compressed, nil)
        case .plainZero: return (.zero, nil)
        case .allocatedZero: return (.zero, host)
        case .unallocated where !header.hasExtendedL2: return (.unallocated, nil)
        case .data where !header.hasExtendedL2: return (.data, host)
        case .unallocated, .data:
            let bit = UInt32(1) << UInt32(within / (header.clusterBytes / 32))
            let place = entry.kind(in: header) == .data ? host : nil
            if entry.zeroBits & bit != 0 { return (.zero, place) }
            return (entry.allocatedBits & bit != 0 ? .data : .unallocated, place)
        }
    }
}

import BlockCore

/// What an entry of an L2 table says, in either of the two forms that tables have.
struct TableEntry: Equatable {
    enum Kind: Equatable {
        case unallocated
        /// Reads as zeroes, without storage.
        case plainZero
        /// Reads as zeroes and has storage all the same.
        case allocatedZero
        case data
        case compressed
    }

    /// The entry itself.
    var raw: UInt64
    /// Of an extended entry: 32 bits "allocated" and, above, 32 bits "reads as zeroes".
    var subclusters: UInt64 = 0

    /// The host offset, of whatever alignment; meaningless for a compressed cluster.
    var offset: UInt64 { raw & Qcow2Layout.offsetMask }
    var isCopied: Bool { raw & Qcow2Layout.copied != 0 }
    var allocatedBits: UInt32 { UInt32(truncatingIfNeeded: subclusters) }
    var zeroBits: UInt32 { UInt32(truncatingIfNeeded: subclusters >> 32) }

    /// What the entry means in an image with this header.
    func kind(in header: StoredHeader) -> Kind {
        if raw & Qcow2Layout.compressed != 0 { return .compressed }
        if raw & Qcow2Layout.zero != 0 && !header.hasExtendedL2 {
            return offset != 0 ? .allocatedZero : .plainZero
        }
        if offset != 0 { return .data }
        // In an external file the first cluster is at offset 0; the flag tells it from nothing.
        return header.hasExternalData && isCopied ? .data : .unallocated
    }
}

/// One L2 table in memory.
struct EntryTable {
    private(set) var numbers: [UInt64]
    private let stride: Int

    /// The table that lies at `offset`.
    init(file: HostFile, header: StoredHeader, at offset: UInt64) throws(BlockError) {
        numbers = try file.readNumbers(Int(header.clusterBytes) / 8, at: offset)
        stride = header.l2EntryBytes / 8
    }

    var count: Int { numbers.count / stride }

    /// Whether nothing is in it.
    var isEmpty: Bool { !numbers.contains { $0 != 0 } }

    subscript(index: Int) -> TableEntry {
        get {
            TableEntry(
                raw: numbers[index * stride],
                subclusters: stride == 2 ? numbers[index * stride + 1] : 0)
        }
        set {
            numbers[index * stride] = newValue.raw
            if stride == 2 { numbers[index * stride + 1] = newValue.subclusters }
        }
    }
}

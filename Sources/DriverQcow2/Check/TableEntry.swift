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
struct EntryTable: Equatable {
    private(set) var bytes: [UInt8]
    private let stride: Int

    /// How much is skipped at once where it is all zero.
    private static let stepBytes = 4096

    /// The table that lies at `offset`.
    init(file: any StorageFile, header: StoredHeader, at offset: UInt64) throws(BlockError) {
        bytes = try file.readBytes(Int(header.clusterBytes), at: offset)
        stride = header.l2EntryBytes
    }

    var count: Int { bytes.count / stride }

    /// The first entry from `index` on in which something is set; nil if there is none. Most
    /// tables of a sparse image are nearly empty, and are to be passed quickly.
    func next(from index: Int) -> Int? {
        bytes.withUnsafeBytes { bytes in
            var offset = index * stride
            while offset < bytes.count {
                let end = min((offset / Self.stepBytes + 1) * Self.stepBytes, bytes.count)
                guard !UnsafeRawBufferPointer(rebasing: bytes[offset..<end]).isAllZero else {
                    offset = end
                    continue
                }
                while offset < end {
                    let isUsed =
                        bytes.bigEndian(at: offset, as: UInt64.self) != 0
                        || stride == 16 && bytes.bigEndian(at: offset + 8, as: UInt64.self) != 0
                    if isUsed { return offset / stride }
                    offset += stride
                }
            }
            return nil
        }
    }

    subscript(index: Int) -> TableEntry {
        get {
            bytes.withUnsafeBytes { bytes in
                TableEntry(
                    raw: bytes.bigEndian(at: index * stride),
                    subclusters: stride == 16 ? bytes.bigEndian(at: index * stride + 8) : 0)
            }
        }
        set {
            bytes.withUnsafeMutableBytes { bytes in
                bytes.storeBigEndian(newValue.raw, at: index * stride)
                if stride == 16 {
                    bytes.storeBigEndian(newValue.subclusters, at: index * stride + 8)
                }
            }
        }
    }

    /// Writes the table back to `offset`.
    func write(to file: any StorageFile, at offset: UInt64) throws(BlockError) {
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: offset, from: bytes)
        }
    }
}

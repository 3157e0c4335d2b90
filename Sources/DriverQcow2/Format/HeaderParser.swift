import BlockCore

/// Decodes a header and refuses what contradicts the format, the file or what this driver can do.
struct HeaderParser {
    private typealias Field = Qcow2Layout.Field

    private let path: String
    private let fileBytes: UInt64
    /// The first cluster, or less of it where the file is shorter.
    private let bytes: [UInt8]

    init(file: any StorageFile) throws(BlockError) {
        path = file.path
        fileBytes = try file.sizeBytes()
        var first = [UInt8](repeating: 0, count: Qcow2Layout.headerBytesV3 + 8)
        try first.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        let clusterBits = Self.number(first, Field.clusterBits, as: UInt32.self)
        if (9...21).contains(clusterBits) {
            var cluster = [UInt8](repeating: 0, count: 1 << Int(clusterBits))
            try cluster.withMutableBytes { (bytes) throws(BlockError) in
                try file.read(at: 0, into: bytes)
            }
            first = cluster
        }
        bytes = first
    }

    func header() throws(BlockError) -> Qcow2Header {
        guard number(Field.magic, as: UInt32.self) == Qcow2Layout.magic else {
            throw failure(.invalid, "this is not a qcow2 image")
        }
        let version: UInt32 = number(Field.version)
        guard version == 2 || version == 3 else {
            throw failure(.unsupported, "qcow2 version \(version); this driver knows 2 and 3")
        }
        let clusterBits: UInt32 = number(Field.clusterBits)
        guard
            (UInt32(Qcow2Layout.clusterBitsMin)...UInt32(Qcow2Layout.clusterBitsMax))
                .contains(clusterBits)
        else { throw failure(.corrupt, "clusters of 2^\(clusterBits) bytes") }
        guard number(Field.encryption, as: UInt32.self) == 0 else {
            throw failure(.unsupported, "the image is encrypted")
        }
        let headerBytes = try headerBytes(version: version, clusterBits: clusterBits)
        var header = Qcow2Header(
            version: version, clusterBits: Int(clusterBits), sizeBytes: number(Field.size),
            backing: nil, compression: .deflate, incompatible: 0, compatible: 0, autoclear: 0,
            snapshotCount: number(Field.snapshotCount), refcountOrder: 4,
            l1Count: number(Field.l1Count), l1Offset: number(Field.l1Offset),
            refcountTableOffset: number(Field.refcountTableOffset),
            refcountTableClusters: number(Field.refcountTableClusters))
        if version == 3 {
            header.incompatible = number(Field.incompatible)
            header.compatible = number(Field.compatible)
            header.autoclear = number(Field.autoclear)
            header.refcountOrder = Int(number(Field.refcountOrder, as: UInt32.self))
            try readCompression(into: &header, headerBytes: headerBytes)
        }
        try checkFeatures(header)
        try checkTables(header)
        header.backing = try backing(headerBytes: headerBytes)
        return header
    }

    private func headerBytes(version: UInt32, clusterBits: UInt32) throws(BlockError) -> Int {
        guard version == 3 else { return Qcow2Layout.headerBytesV2 }
        let headerBytes: UInt32 = number(Field.headerBytes)
        guard headerBytes >= UInt32(Qcow2Layout.headerBytesV3), headerBytes % 8 == 0,
            headerBytes <= UInt32(1) << clusterBits
        else { throw failure(.corrupt, "a header of \(headerBytes) bytes") }
        return Int(headerBytes)
    }

    private func readCompression(
        into header: inout Qcow2Header, headerBytes: Int
    ) throws(BlockError) {
        let type = headerBytes > Field.compressionType ? bytes[Field.compressionType] : 0
        guard let compression = Qcow2Header.Compression(rawValue: type) else {
            throw failure(.unsupported, "compression type \(type); this driver knows 0 and 1")
        }
        guard (type != 0) == (header.incompatible & Qcow2Layout.Incompatible.compressionType != 0)
        else {
            throw failure(.corrupt, "compression type \(type) contradicts the feature bits")
        }
        header.compression = compression
    }

    private func checkFeatures(_ header: Qcow2Header) throws(BlockError) {
        typealias Bits = Qcow2Layout.Incompatible
        if header.incompatible & Bits.externalData != 0 {
            throw failure(.unsupported, "the image keeps its data in an external file")
        }
        if header.incompatible & Bits.extendedL2 != 0 {
            throw failure(
                .unsupported,
                "the image has extended L2 entries (subclusters); convert it with extended_l2=off")
        }
        let unknown =
            header.incompatible & ~(Bits.dirty | Bits.corrupt | Bits.compressionType)
        guard unknown == 0 else {
            throw failure(
                .unsupported, "incompatible feature bits 0x\(String(unknown, radix: 16)) are set")
        }
        guard header.refcountOrder <= Qcow2Layout.refcountOrderMax else {
            throw failure(.corrupt, "refcounts of 2^\(header.refcountOrder) bits")
        }
    }

    private func checkTables(_ header: Qcow2Header) throws(BlockError) {
        // Bounded so that rounding the size up to clusters cannot overflow.
        guard header.sizeBytes <= UInt64(1) << 62 else {
            throw failure(.corrupt, "a size of \(header.sizeBytes) bytes")
        }
        let geometry = header.geometry
        guard UInt64(header.l1Count) >= geometry.l1Count else {
            throw failure(
                .corrupt, "an L1 table of \(header.l1Count) entries, \(geometry.l1Count) needed")
        }
        try checkTable(
            "L1 table", at: header.l1Offset, bytes: UInt64(header.l1Count) * 8,
            max: Qcow2Layout.l1BytesMax, header)
        guard header.refcountTableClusters > 0 else {
            throw failure(.corrupt, "there is no refcount table")
        }
        try checkTable(
            "refcount table", at: header.refcountTableOffset,
            bytes: UInt64(header.refcountTableClusters) * header.clusterBytes,
            max: Qcow2Layout.refcountTableBytesMax, header)
    }

    private func checkTable(
        _ name: String, at offset: UInt64, bytes: UInt64, max: UInt64, _ header: Qcow2Header
    ) throws(BlockError) {
        guard bytes > 0 else { return }
        guard bytes <= max else {
            throw failure(.corrupt, "the \(name) has \(bytes) bytes; at most \(max) are allowed")
        }
        guard offset >= header.clusterBytes, offset % header.clusterBytes == 0,
            offset < fileBytes, bytes <= fileBytes - offset
        else {
            throw failure(
                .corrupt, "the \(name) (\(bytes) bytes at \(offset)) is not inside the file")
        }
    }

    private func backing(headerBytes: Int) throws(BlockError) -> Qcow2Backing? {
        let offset: UInt64 = number(Field.backingOffset)
        // Extensions lie between the header's fields and the name.
        let extensionEnd = offset == 0 ? bytes.count : Int(min(offset, UInt64(bytes.count)))
        let format = try backingFormat(from: headerBytes, to: extensionEnd)
        guard offset != 0 else { return nil }
        let count: UInt32 = number(Field.backingBytes)
        guard count <= UInt32(Qcow2Layout.backingNameBytesMax), offset < UInt64(bytes.count),
            UInt64(count) <= UInt64(bytes.count) - offset
        else { throw failure(.corrupt, "the backing file name is outside the first cluster") }
        guard count > 0 else { return nil }
        let name = bytes[Int(offset)..<Int(offset) + Int(count)]
        return Qcow2Backing(name: String(decoding: name, as: UTF8.self), format: format)
    }

    private func backingFormat(from start: Int, to end: Int) throws(BlockError) -> String? {
        var offset = start
        var format: String?
        while offset + 8 <= end {
            let type: UInt32 = number(offset)
            let count = Int(number(offset + 4, as: UInt32.self))
            if type == Qcow2Layout.Extension.end { break }
            guard count <= end - offset - 8 else {
                throw failure(.corrupt, "a header extension of \(count) bytes is too long")
            }
            if type == Qcow2Layout.Extension.backingFormat {
                format = String(decoding: bytes[offset + 8..<offset + 8 + count], as: UTF8.self)
            }
            offset += 8 + (count + 7) / 8 * 8
        }
        return format
    }

    private func number<T: FixedWidthInteger>(_ offset: Int, as type: T.Type = T.self) -> T {
        Self.number(bytes, offset, as: type)
    }

    private static func number<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, as type: T.Type
    ) -> T {
        bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }

    private func failure(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
        BlockError(kind, "read the header", on: path, detail: detail)
    }
}

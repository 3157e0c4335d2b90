import BlockCore

/// Decodes a header and refuses what contradicts the format, the file or what this driver can do.
struct HeaderParser {
    private typealias Field = Qcow2Layout.Field

    private let path: String
    private let file: any StorageFile
    private let fileBytes: UInt64
    /// The first cluster, or less of it where the file is shorter.
    private let bytes: [UInt8]

    init(file: any StorageFile) throws(BlockError) {
        self.file = file
        path = file.path
        fileBytes = try file.sizeBytes()
        var first = [UInt8](repeating: 0, count: Qcow2Layout.headerBytesLong)
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
        try checkEncryption()
        let headerBytes = try headerBytes(version: version, clusterBits: clusterBits)
        var header = Qcow2Header(
            version: version, clusterBits: Int(clusterBits), sizeBytes: number(Field.size),
            backing: nil, snapshotCount: number(Field.snapshotCount),
            snapshotOffset: number(Field.snapshotOffset), l1Count: number(Field.l1Count),
            l1Offset: number(Field.l1Offset),
            refcountTableOffset: number(Field.refcountTableOffset),
            refcountTableClusters: number(Field.refcountTableClusters))
        if version == 3 {
            header.incompatible = number(Field.incompatible)
            header.compatible = number(Field.compatible)
            header.autoclear = number(Field.autoclear)
            header.refcountOrder = Int(number(Field.refcountOrder, as: UInt32.self))
        }
        let extensions = try extensions(from: headerBytes)
        try checkFeatures(header, extensions)
        if version == 3 { try readCompression(into: &header, headerBytes: headerBytes) }
        header.backing = try backing(headerBytes: headerBytes, format: extensions.backingFormat)
        header.dataFileName = header.hasDataFile ? extensions.dataFileName : nil
        header.bitmaps = extensions.bitmaps
        try HeaderTables(header, file: file, fileBytes: fileBytes).check()
        return header
    }

    private func checkEncryption() throws(BlockError) {
        switch number(Field.encryption, as: UInt32.self) {
        case 0: return
        case 1: throw failure(.unsupported, "the image is encrypted (AES); decrypt it first")
        case 2: throw failure(.unsupported, "the image is encrypted (LUKS); decrypt it first")
        case let method:
            throw failure(.unsupported, "the image is encrypted (by unknown method \(method))")
        }
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

    private func checkFeatures(
        _ header: Qcow2Header, _ extensions: HeaderExtensions
    ) throws(BlockError) {
        let unknown = header.incompatible & ~Qcow2Layout.Incompatible.known
        guard unknown == 0 else {
            throw failure(
                .unsupported,
                "it needs features that are unknown here: "
                    + extensions.names(ofIncompatible: unknown))
        }
        guard header.refcountOrder <= Qcow2Layout.refcountOrderMax else {
            throw failure(.corrupt, "refcounts of 2^\(header.refcountOrder) bits")
        }
        guard !header.hasSubclusters || header.clusterBits >= Qcow2Layout.extendedClusterBitsMin
        else {
            throw failure(
                .corrupt, "subclusters in clusters of 2^\(header.clusterBits) bytes")
        }
        // Bounded so that rounding the size up to clusters cannot overflow.
        guard header.sizeBytes <= UInt64(1) << 62 else {
            throw failure(.corrupt, "a size of \(header.sizeBytes) bytes")
        }
    }

    private func extensions(from headerBytes: Int) throws(BlockError) -> HeaderExtensions {
        let offset: UInt64 = number(Field.backingOffset)
        let end = offset == 0 ? bytes.count : Int(min(offset, UInt64(bytes.count)))
        do throws(HeaderExtensions.Invalid) {
            return try HeaderExtensions(bytes, in: min(headerBytes, end)..<end)
        } catch {
            throw failure(.corrupt, error.detail)
        }
    }

    private func backing(headerBytes: Int, format: String?) throws(BlockError) -> Qcow2Backing? {
        let offset: UInt64 = number(Field.backingOffset)
        guard offset != 0 else { return nil }
        let count: UInt32 = number(Field.backingBytes)
        guard count <= UInt32(Qcow2Layout.backingNameBytesMax), offset >= UInt64(headerBytes),
            offset < UInt64(bytes.count), UInt64(count) <= UInt64(bytes.count) - offset
        else { throw failure(.corrupt, "the backing file name is outside the first cluster") }
        guard count > 0 else { return nil }
        let name = bytes[Int(offset)..<Int(offset) + Int(count)]
        return Qcow2Backing(headerName: String(decoding: name, as: UTF8.self), format: format)
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

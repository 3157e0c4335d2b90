import BlockCore

// The header for those who must look at images that the driver would refuse: the checker, the
// repair, `image info` and `image map`. It refuses only what leaves nothing to look at: a field
// without which no table can be found or read.

/// A header as it stands in the file, with all its fields and extensions.
struct StoredHeader: Sendable {
    /// A header extension whose content is not interpreted here.
    struct Extension: Sendable, Equatable {
        let type: UInt32
        let content: [UInt8]
    }

    let version: UInt32
    let clusterBits: Int
    let sizeBytes: UInt64
    let l1Count: UInt32
    let l1Offset: UInt64
    let refcountTableOffset: UInt64
    let refcountTableClusters: UInt32
    let snapshotCount: UInt32
    let snapshotOffset: UInt64
    let incompatible: UInt64
    let compatible: UInt64
    let autoclear: UInt64
    let refcountOrder: Int
    let compressionType: UInt8
    let backingName: String?
    let extensions: [Extension]

    var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }
    var hasExternalData: Bool { incompatible & Qcow2Layout.Incompatible.externalData != 0 }
    var hasExtendedL2: Bool { incompatible & Qcow2Layout.Incompatible.extendedL2 != 0 }
    var isDirty: Bool { incompatible & Qcow2Layout.Incompatible.dirty != 0 }
    var isCorrupt: Bool { incompatible & Qcow2Layout.Incompatible.corrupt != 0 }

    /// Bytes of one L2 entry: extended ones carry 64 more bits, about subclusters.
    var l2EntryBytes: Int { hasExtendedL2 ? 16 : 8 }
    /// Entries in one L2 table, a table being one cluster.
    var l2EntryCount: Int { Int(clusterBytes) / l2EntryBytes }
    /// The highest refcount that can be stored.
    var refcountMax: UInt64 {
        refcountOrder == 6 ? .max : (1 << (UInt64(1) << UInt64(refcountOrder))) - 1
    }
    /// Refcounts in one refcount block.
    var countsPerBlock: UInt64 { (clusterBytes * 8) >> UInt64(refcountOrder) }

    /// Extension types beyond those of the driver.
    enum ExtensionType {
        static let featureNames: UInt32 = 0x6803_F857
        static let bitmaps: UInt32 = 0x2385_2875
        static let dataFile: UInt32 = 0x4441_5441
        static let encryption: UInt32 = 0x0537_BE77
    }

    /// The content of the first extension of `type`.
    func content(of type: UInt32) -> [UInt8]? { extensions.first { $0.type == type }?.content }

    /// The text of the first extension of `type`.
    func text(of type: UInt32) -> String? {
        content(of: type).map { String(decoding: $0, as: UTF8.self) }
    }

    /// The clusters that `bytes` take.
    func clusters(for bytes: UInt64) -> UInt64 {
        (bytes >> UInt64(clusterBits)) + (bytes & (clusterBytes - 1) == 0 ? 0 : 1)
    }
}

extension StoredHeader {
    /// Reads the header of the image in `file`.
    init(file: any StorageFile) throws(BlockError) {
        self = try Reader(file: file).header()
    }

    /// Decodes the first cluster of a file.
    private struct Reader {
        typealias Field = Qcow2Layout.Field

        let path: String
        var bytes: [UInt8]

        init(file: any StorageFile) throws(BlockError) {
            path = file.path
            bytes = try file.readBytes(Qcow2Layout.headerBytesV3 + 8, at: 0)
            let bits = number(Field.clusterBits, as: UInt32.self)
            guard number(Field.magic, as: UInt32.self) == Qcow2Layout.magic else {
                throw failure(.invalid, "this is not a qcow2 image")
            }
            guard
                bits >= UInt32(Qcow2Layout.clusterBitsMin),
                bits <= UInt32(Qcow2Layout.clusterBitsMax)
            else { throw failure(.corrupt, "clusters of 2^\(bits) bytes") }
            bytes = try file.readBytes(1 << Int(bits), at: 0)
        }

        func header() throws(BlockError) -> StoredHeader {
            let version: UInt32 = number(Field.version)
            guard version == 2 || version == 3 else {
                throw failure(.unsupported, "qcow2 version \(version); 2 and 3 are known")
            }
            let isThree = version == 3
            let length = isThree ? Int(number(Field.headerBytes, as: UInt32.self)) : 72
            guard length >= (isThree ? Qcow2Layout.headerBytesV3 : 72), length % 8 == 0,
                length <= bytes.count
            else { throw failure(.corrupt, "a header of \(length) bytes") }
            let backingOffset: UInt64 = number(Field.backingOffset)
            let header = StoredHeader(
                version: version, clusterBits: Int(number(Field.clusterBits, as: UInt32.self)),
                sizeBytes: number(Field.size), l1Count: number(Field.l1Count),
                l1Offset: number(Field.l1Offset),
                refcountTableOffset: number(Field.refcountTableOffset),
                refcountTableClusters: number(Field.refcountTableClusters),
                snapshotCount: number(Field.snapshotCount),
                snapshotOffset: number(Field.snapshotOffset),
                incompatible: isThree ? number(Field.incompatible) : 0,
                compatible: isThree ? number(Field.compatible) : 0,
                autoclear: isThree ? number(Field.autoclear) : 0,
                refcountOrder: isThree ? Int(number(Field.refcountOrder, as: UInt32.self)) : 4,
                compressionType: length > Field.compressionType
                    ? bytes[Field.compressionType] : 0,
                backingName: try backingName(at: backingOffset),
                extensions: try extensions(from: length, backingOffset: backingOffset))
            try check(header)
            return header
        }

        private func check(_ header: StoredHeader) throws(BlockError) {
            typealias Bits = Qcow2Layout.Incompatible
            guard number(Field.encryption, as: UInt32.self) == 0 else {
                throw failure(.unsupported, "the image is encrypted")
            }
            let known =
                Bits.dirty | Bits.corrupt | Bits.externalData | Bits.compressionType
                | Bits.extendedL2
            let unknown = header.incompatible & ~known
            guard unknown == 0 else {
                let bits = String(unknown, radix: 16)
                throw failure(.unsupported, "incompatible feature bits 0x\(bits) are set")
            }
            guard header.refcountOrder <= Qcow2Layout.refcountOrderMax else {
                throw failure(.corrupt, "refcounts of 2^\(header.refcountOrder) bits")
            }
            guard !header.hasExtendedL2 || header.clusterBits >= 14 else {
                throw failure(.corrupt, "subclusters in clusters of 2^\(header.clusterBits) bytes")
            }
            let hasTypeBit = header.incompatible & Bits.compressionType != 0
            guard (header.compressionType != 0) == hasTypeBit, header.compressionType <= 1 else {
                throw failure(
                    .corrupt, "compression type \(header.compressionType) and the feature bits")
            }
            try checkTables(header)
        }

        private func checkTables(_ header: StoredHeader) throws(BlockError) {
            guard header.sizeBytes <= UInt64(1) << 62 else {
                throw failure(.corrupt, "a size of \(header.sizeBytes) bytes")
            }
            try checkTable(
                "L1 table", header.l1Offset, UInt64(header.l1Count) * 8, Qcow2Layout.l1BytesMax,
                header)
            try checkTable(
                "refcount table", header.refcountTableOffset,
                UInt64(header.refcountTableClusters) << UInt64(header.clusterBits),
                Qcow2Layout.refcountTableBytesMax, header)
            let clusters = header.clusters(for: header.sizeBytes)
            let needed =
                (clusters + UInt64(header.l2EntryCount) - 1) / UInt64(header.l2EntryCount)
            guard UInt64(header.l1Count) >= needed else {
                throw failure(
                    .corrupt, "an L1 table of \(header.l1Count) entries, \(needed) needed")
            }
        }

        /// Whether a table lies inside the file is left to the checker, which can say more.
        private func checkTable(
            _ name: String, _ offset: UInt64, _ length: UInt64, _ lengthMax: UInt64,
            _ header: StoredHeader
        ) throws(BlockError) {
            guard length <= lengthMax else {
                throw failure(.corrupt, "the \(name) has \(length) bytes, \(lengthMax) at most")
            }
            guard offset % header.clusterBytes == 0, offset <= UInt64(Int64.max) - length else {
                throw failure(.corrupt, "the \(name) is said to be at \(offset)")
            }
        }

        private func backingName(at offset: UInt64) throws(BlockError) -> String? {
            guard offset != 0 else { return nil }
            let count: UInt32 = number(Field.backingBytes)
            guard count <= UInt32(Qcow2Layout.backingNameBytesMax),
                offset <= UInt64(bytes.count) - UInt64(min(Int(count), bytes.count))
            else { throw failure(.corrupt, "the backing file name is outside the first cluster") }
            guard count > 0 else { return nil }
            return String(decoding: bytes[Int(offset)..<Int(offset) + Int(count)], as: UTF8.self)
        }

        private func extensions(
            from start: Int, backingOffset: UInt64
        ) throws(BlockError) -> [Extension] {
            let end = backingOffset == 0 ? bytes.count : Int(backingOffset)
            var found: [Extension] = []
            var offset = start
            while offset + 8 <= end {
                let type: UInt32 = number(offset)
                let count = Int(number(offset + 4, as: UInt32.self))
                if type == Qcow2Layout.Extension.end { break }
                guard count <= end - offset - 8 else {
                    throw failure(.corrupt, "a header extension of \(count) bytes is too long")
                }
                let content = Array(bytes[offset + 8..<offset + 8 + count])
                found.append(Extension(type: type, content: content))
                offset += 8 + (count + 7) / 8 * 8
            }
            return found
        }

        private func number<T: FixedWidthInteger>(_ offset: Int, as type: T.Type = T.self) -> T {
            bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
        }

        private func failure(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
            BlockError(kind, "read the header", on: path, detail: detail)
        }
    }
}

extension StorageFile {
    /// `count` bytes from `offset`; what lies beyond the end of the file is zeroes.
    func readBytes(_ count: Int, at offset: UInt64) throws(BlockError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try read(at: offset, into: bytes)
        }
        return bytes
    }
}

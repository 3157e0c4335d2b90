import BlockCore

/// A dirty bitmap that QEMU keeps in an image, as the image's bitmap directory describes it.
package struct Qcow2Bitmap: Sendable, Equatable {
    package let name: String
    package let granularityBytes: UInt64
    /// Set while somebody has the image open for writing; if nobody has, the bits are not true.
    package var isInUse: Bool { flags & 1 != 0 }
    /// It records when the image is opened.
    package var isAutomatic: Bool { flags & 2 != 0 }

    let flags: UInt32
    let tableOffset: UInt64
    let tableCount: UInt32
}

/// The bitmaps that an image's header extension names.
struct StoredBitmaps: Sendable {
    static let countMax: UInt32 = 65535
    static let tableCountMax: UInt32 = 0x800_0000
    static let nameBytesMax = 1023
    private static let fixedBytes = 24

    /// Bits 9–55: where a piece of the bitmap is. Bit 0 of an entry without: all ones.
    static let entryReserved: UInt64 = 0xFF00_0000_0000_01FE

    let offset: UInt64
    let lengthBytes: UInt64
    private(set) var bitmaps: [Qcow2Bitmap] = []

    /// Reads the directory; nil if the image has none, or one that somebody who did not know
    /// bitmaps disowned by clearing the feature bit.
    init?(file: any StorageFile, header: StoredHeader) throws(BlockError) {
        guard header.autoclear & 1 != 0,
            let content = header.content(of: StoredHeader.ExtensionType.bitmaps)
        else { return nil }
        guard content.count == 24 else {
            throw Self.failure(file, "the header extension has \(content.count) bytes")
        }
        let count: UInt32 = Self.number(content, 0)
        lengthBytes = Self.number(content, 8)
        offset = Self.number(content, 16)
        guard count > 0, count <= Self.countMax, Self.number(content, 4, as: UInt32.self) == 0
        else { throw Self.failure(file, "\(count) bitmaps, or reserved bits") }
        let fileBytes = try file.sizeBytes()
        guard offset % header.clusterBytes == 0, offset <= fileBytes,
            lengthBytes <= fileBytes - offset,
            lengthBytes <= UInt64(Self.countMax) * UInt64(Self.fixedBytes + Self.nameBytesMax + 8)
        else { throw Self.failure(file, "\(lengthBytes) bytes at \(offset)") }
        try readEntries(count, file, header)
    }

    /// Where the header says that the directory is; nil if it says nothing that can be understood.
    static func place(in header: StoredHeader) -> (offset: UInt64, lengthBytes: UInt64)? {
        guard let content = header.content(of: StoredHeader.ExtensionType.bitmaps),
            content.count == 24
        else { return nil }
        return (number(content, 16), number(content, 8))
    }

    private mutating func readEntries(
        _ count: UInt32, _ file: any StorageFile, _ header: StoredHeader
    ) throws(BlockError) {
        var position = offset
        let end = offset + lengthBytes
        for index in 0..<count {
            guard end - position >= UInt64(Self.fixedBytes) else {
                throw Self.failure(file, "entry \(index) does not fit")
            }
            let fixed = try file.readBytes(Self.fixedBytes, at: position)
            let nameBytes = Int(Self.number(fixed, 18, as: UInt16.self))
            let extraBytes = UInt64(Self.number(fixed, 20, as: UInt32.self))
            let length = (UInt64(Self.fixedBytes + nameBytes) + extraBytes).alignedUp(to: 8)
            guard end - position >= length, nameBytes > 0, nameBytes <= Self.nameBytesMax else {
                throw Self.failure(file, "entry \(index) does not fit, or its name")
            }
            let name = try file.readBytes(
                nameBytes, at: position + UInt64(Self.fixedBytes) + extraBytes)
            try append(String(decoding: name, as: UTF8.self), fixed, file, header)
            position += length
        }
        guard position == end else {
            throw Self.failure(file, "\(end - position) bytes follow the last entry")
        }
    }

    private mutating func append(
        _ name: String, _ fixed: [UInt8], _ file: any StorageFile, _ header: StoredHeader
    ) throws(BlockError) {
        let tableOffset: UInt64 = Self.number(fixed, 0)
        let tableCount: UInt32 = Self.number(fixed, 8)
        let flags: UInt32 = Self.number(fixed, 12)
        let granularityBits = fixed[17]
        guard tableOffset % header.clusterBytes == 0, tableOffset != 0, tableCount > 0,
            tableCount <= Self.tableCountMax,
            tableOffset <= UInt64(Int64.max) - UInt64(tableCount) * 8
        else {
            throw Self.failure(file, "'\(name)' has \(tableCount) entries at \(tableOffset)")
        }
        guard fixed[16] == 1, (9...31).contains(granularityBits), flags & ~7 == 0 else {
            throw Self.failure(file, "'\(name)' has a type, granularity or flags unknown here")
        }
        guard Self.number(fixed, 20, as: UInt32.self) == 0 else {
            throw Self.failure(file, "'\(name)' has extra data that is unknown here")
        }
        let clusters = Self.clusters(granularityBits, header)
        guard flags & 1 != 0 || header.sizeBytes == 0 || UInt64(tableCount) == clusters else {
            throw Self.failure(file, "'\(name)' has \(tableCount) entries, \(clusters) needed")
        }
        bitmaps.append(
            Qcow2Bitmap(
                name: name, granularityBytes: 1 << UInt64(granularityBits), flags: flags,
                tableOffset: tableOffset, tableCount: tableCount))
    }

    /// The clusters that a bitmap takes: a bit for each granule, in whole 64-bit words.
    private static func clusters(_ granularityBits: UInt8, _ header: StoredHeader) -> UInt64 {
        let size = header.sizeBytes.alignedUp(to: 512)
        let granules = (size + (1 << UInt64(granularityBits)) - 1) >> UInt64(granularityBits)
        return header.clusters(for: (granules + 63) / 64 * 8)
    }

    private static func number<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, as type: T.Type = T.self
    ) -> T {
        bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }

    private static func failure(_ file: any StorageFile, _ detail: String) -> BlockError {
        BlockError(.corrupt, "read the bitmap directory", on: file.path, detail: detail)
    }
}

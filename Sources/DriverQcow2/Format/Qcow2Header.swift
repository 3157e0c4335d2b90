package import BlockCore

/// The backing file of an image, as its header names it.
package struct Qcow2Backing: Sendable, Equatable {
    /// The name: relative names are relative to the image's folder.
    package var name: String
    /// The driver that opens it, such as `qcow2` or `raw`; nil where the header does not say.
    package var format: String?

    package init(name: String, format: String?) {
        self.name = name
        self.format = format
    }
}

/// The header of a qcow2 image, as far as this driver understands it.
package struct Qcow2Header: Sendable, Equatable {
    /// How compressed clusters are compressed.
    package enum Compression: UInt8, Sendable {
        case deflate = 0
        case zstd = 1
    }

    /// 2 or 3.
    package var version: UInt32
    package var clusterBits: Int
    /// The guest-visible size.
    package var sizeBytes: UInt64
    package var backing: Qcow2Backing?
    package var compression: Compression
    package var incompatible: UInt64
    package var compatible: UInt64
    package var autoclear: UInt64
    package var snapshotCount: UInt32
    /// The width of a refcount is two to this power, in bits.
    package var refcountOrder: Int

    var l1Count: UInt32
    var l1Offset: UInt64
    var refcountTableOffset: UInt64
    var refcountTableClusters: UInt32

    package var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }

    var geometry: Qcow2Geometry {
        Qcow2Geometry(clusterBits: clusterBits, sizeBytes: sizeBytes)
    }
}

extension Qcow2Header {
    /// Reads and validates the header of the image at `path`.
    package init(path: String) throws(BlockError) {
        try self.init(file: HostFile(path: path, access: .readOnly))
    }

    /// Reads and validates the header of the image in `file`.
    init(file: any StorageFile) throws(BlockError) {
        let parser = try HeaderParser(file: file)
        self = try parser.header()
    }

    /// The header as the bytes of the image's first cluster, up to the end of what it says.
    func encoded(on path: String) throws(BlockError) -> [UInt8] {
        let name = Array((backing?.name ?? "").utf8)
        let format = Array((backing?.format ?? "").utf8)
        let extensionBytes = format.isEmpty ? 8 : 16 + (format.count + 7) / 8 * 8
        let nameOffset = Qcow2Layout.headerBytesV3 + extensionBytes
        guard name.count <= Qcow2Layout.backingNameBytesMax,
            UInt64(nameOffset + name.count) <= clusterBytes
        else {
            throw BlockError(
                .invalid, "write the header", on: path,
                detail: "the backing file name has \(name.count) bytes, too many for the header")
        }
        var bytes = [UInt8](repeating: 0, count: nameOffset + name.count)
        bytes.withUnsafeMutableBytes { (header: UnsafeMutableRawBufferPointer) in
            encodeFields(into: header)
            var offset = Qcow2Layout.headerBytesV3
            if !format.isEmpty {
                header.storeBigEndian(Qcow2Layout.Extension.backingFormat, at: offset)
                header.storeBigEndian(UInt32(format.count), at: offset + 4)
                for (index, byte) in format.enumerated() { header[offset + 8 + index] = byte }
                offset += extensionBytes - 8
            }
            header.storeBigEndian(Qcow2Layout.Extension.end, at: offset)
            guard !name.isEmpty else { return }
            header.storeBigEndian(UInt64(nameOffset), at: Qcow2Layout.Field.backingOffset)
            header.storeBigEndian(UInt32(name.count), at: Qcow2Layout.Field.backingBytes)
            for (index, byte) in name.enumerated() { header[nameOffset + index] = byte }
        }
        return bytes
    }

    private func encodeFields(into header: UnsafeMutableRawBufferPointer) {
        typealias Field = Qcow2Layout.Field
        header.storeBigEndian(Qcow2Layout.magic, at: Field.magic)
        header.storeBigEndian(version, at: Field.version)
        header.storeBigEndian(UInt32(clusterBits), at: Field.clusterBits)
        header.storeBigEndian(sizeBytes, at: Field.size)
        header.storeBigEndian(l1Count, at: Field.l1Count)
        header.storeBigEndian(l1Offset, at: Field.l1Offset)
        header.storeBigEndian(refcountTableOffset, at: Field.refcountTableOffset)
        header.storeBigEndian(refcountTableClusters, at: Field.refcountTableClusters)
        header.storeBigEndian(incompatible, at: Field.incompatible)
        header.storeBigEndian(compatible, at: Field.compatible)
        header.storeBigEndian(autoclear, at: Field.autoclear)
        header.storeBigEndian(UInt32(refcountOrder), at: Field.refcountOrder)
        header.storeBigEndian(UInt32(Qcow2Layout.headerBytesV3), at: Field.headerBytes)
    }
}

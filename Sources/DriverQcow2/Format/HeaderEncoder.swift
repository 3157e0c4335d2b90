import BlockCore

extension Qcow2Header {
    /// The header as the bytes of the image's first cluster, up to the end of what it says.
    func encoded(on path: String) throws(BlockError) -> [UInt8] {
        let name = Array((backing?.name ?? "").utf8)
        guard name.count <= Qcow2Layout.backingNameBytesMax else {
            throw tooLong("backing file name", name.count, path)
        }
        var bytes = encodedFields()
        if let format = backing?.format {
            Self.append(Qcow2Layout.Extension.backingFormat, Array(format.utf8), to: &bytes)
        }
        if let dataFileName {
            Self.append(Qcow2Layout.Extension.dataFile, Array(dataFileName.utf8), to: &bytes)
        }
        Self.append(Qcow2Layout.Extension.end, [], to: &bytes)
        if !name.isEmpty {
            let offset = bytes.count
            bytes.withUnsafeMutableBytes { bytes in
                bytes.storeBigEndian(UInt64(offset), at: Qcow2Layout.Field.backingOffset)
                bytes.storeBigEndian(UInt32(name.count), at: Qcow2Layout.Field.backingBytes)
            }
            bytes += name
        }
        guard UInt64(bytes.count) <= clusterBytes else {
            throw tooLong("header", bytes.count, path)
        }
        return bytes
    }

    private func encodedFields() -> [UInt8] {
        typealias Field = Qcow2Layout.Field
        let headerBytes =
            version == 2
            ? Qcow2Layout.headerBytesV2
            : compression == .deflate ? Qcow2Layout.headerBytesV3 : Qcow2Layout.headerBytesLong
        var bytes = [UInt8](repeating: 0, count: headerBytes)
        bytes.withUnsafeMutableBytes { header in
            header.storeBigEndian(Qcow2Layout.magic, at: Field.magic)
            header.storeBigEndian(version, at: Field.version)
            header.storeBigEndian(UInt32(clusterBits), at: Field.clusterBits)
            header.storeBigEndian(sizeBytes, at: Field.size)
            header.storeBigEndian(l1Count, at: Field.l1Count)
            header.storeBigEndian(l1Offset, at: Field.l1Offset)
            header.storeBigEndian(refcountTableOffset, at: Field.refcountTableOffset)
            header.storeBigEndian(refcountTableClusters, at: Field.refcountTableClusters)
            guard version >= 3 else { return }
            header.storeBigEndian(incompatible, at: Field.incompatible)
            header.storeBigEndian(compatible, at: Field.compatible)
            header.storeBigEndian(autoclear, at: Field.autoclear)
            header.storeBigEndian(UInt32(refcountOrder), at: Field.refcountOrder)
            header.storeBigEndian(UInt32(headerBytes), at: Field.headerBytes)
            if compression != .deflate { header[Field.compressionType] = compression.rawValue }
        }
        return bytes
    }

    private static func append(_ type: UInt32, _ content: [UInt8], to bytes: inout [UInt8]) {
        var start = [UInt8](repeating: 0, count: 8)
        start.withUnsafeMutableBytes { start in
            start.storeBigEndian(type, at: 0)
            start.storeBigEndian(UInt32(content.count), at: 4)
        }
        bytes += start + content + [UInt8](repeating: 0, count: -content.count & 7)
    }

    private func tooLong(_ what: String, _ count: Int, _ path: String) -> BlockError {
        BlockError(
            .invalid, "write the header", on: path,
            detail: "the \(what) has \(count) bytes, too many for clusters of \(clusterBytes)")
    }
}

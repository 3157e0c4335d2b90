package import BlockCore

/// What a new image is like.
package struct Qcow2Options: Sendable {
    /// A power of two from 512 to 2 MiB.
    package var clusterBytes: UInt64 = 65536
    /// 3, or 2 for readers from before 2013.
    package var version: UInt32 = 3
    /// The width of refcounts: a power of two from 1 to 64; in version 2 always 16.
    package var refcountBits = 16
    /// Whether each cluster, of at least 16 KiB, is mapped in 32 parts.
    package var hasSubclusters = false
    package var compression: Qcow2Header.Compression = .deflate
    /// The external file for the guest's data, created with the image; nil for the image itself.
    package var dataFileName: String?
    /// Whether that file is to be a raw image of its own.
    package var isDataFileRaw = false

    package init(clusterBytes: UInt64 = 65536) { self.clusterBytes = clusterBytes }

    /// The header of an image of `lengthBytes`, rounded up to a multiple of 512, without the places
    /// of its tables.
    func header(
        path: String, lengthBytes: UInt64, backing: Qcow2Backing?
    ) throws(BlockError) -> Qcow2Header {
        if let problem = problem(hasBacking: backing != nil) {
            throw invalid(problem, path)
        }
        let bits = clusterBytes.trailingZeroBitCount
        guard clusterBytes.isPowerOfTwo,
            (Qcow2Layout.clusterBitsMin...Qcow2Layout.clusterBitsMax).contains(bits)
        else {
            throw invalid(
                "clusters of \(clusterBytes) bytes; a power of two to 2 MiB is needed", path)
        }
        guard lengthBytes <= UInt64(1) << 56 else {
            throw invalid("\(lengthBytes) bytes are more than the format holds", path)
        }
        var header = Qcow2Header(
            version: version, clusterBits: bits, sizeBytes: lengthBytes.alignedUp(to: 512),
            backing: backing, dataFileName: dataFileName, compression: compression,
            refcountOrder: refcountBits.trailingZeroBitCount)
        typealias Incompatible = Qcow2Layout.Incompatible
        if hasSubclusters { header.incompatible |= Incompatible.extendedL2 }
        if compression != .deflate { header.incompatible |= Incompatible.compressionType }
        if dataFileName != nil { header.incompatible |= Incompatible.externalData }
        if isDataFileRaw { header.autoclear |= Qcow2Layout.Autoclear.rawDataFile }
        guard header.geometry.l1Count * 8 <= Qcow2Layout.l1BytesMax else {
            throw invalid(
                "\(lengthBytes) bytes are too many for clusters of \(clusterBytes) bytes; "
                    + "choose larger clusters", path)
        }
        header.l1Count = UInt32(header.geometry.l1Count)
        return header
    }

    private func problem(hasBacking: Bool) -> String? {
        guard version == 2 || version == 3 else { return "there is no version \(version)" }
        guard refcountBits > 0, refcountBits <= 64, UInt64(refcountBits).isPowerOfTwo else {
            return "refcounts of \(refcountBits) bits; a power of two to 64 is needed"
        }
        if hasSubclusters && clusterBytes < 1 << UInt64(Qcow2Layout.extendedClusterBitsMin) {
            return "subclusters need clusters of at least 16 KiB"
        }
        if isDataFileRaw && (dataFileName == nil || hasBacking) {
            return "a raw data file must be external, and there can be no backing file"
        }
        let isNew = hasSubclusters || dataFileName != nil || compression != .deflate
        if version == 2 && (isNew || refcountBits != 16) {
            return "version 2 has none of subclusters, data file, compression type, refcount width"
        }
        return nil
    }

    private func invalid(_ detail: String, _ path: String) -> BlockError {
        BlockError(.invalid, "create the image", on: path, detail: detail)
    }
}

extension Qcow2Device {
    /// Creates an image in which nothing is allocated at `path`, where there must be nothing.
    ///
    /// - Parameters:
    ///   - lengthBytes: rounded up to a multiple of 512, as QEMU expects of an image.
    ///   - backing: written to the header as given; nothing is opened.
    package static func create(
        path: String, lengthBytes: UInt64, options: Qcow2Options, backing: Qcow2Backing? = nil,
        pool: IOPool = .guest
    ) throws(BlockError) {
        let writer = try Qcow2Writer(
            path: path, lengthBytes: lengthBytes, options: options, backing: backing,
            isCompressing: false, pool: pool,
            openFile: { () throws(BlockError) in try HostFile(path: path, access: .create) })
        do throws(BlockError) {
            if options.dataFileName != nil {
                let data = try HostFile(
                    path: dataFilePath(writer.header, from: path), access: .create)
                try data.truncate(toBytes: writer.header.sizeBytes)
                try data.flush()
            }
            try writer.finishBlocking()
        } catch {
            writer.abandon()
            try? HostDirectory.removeFile(path)
            throw error
        }
    }

    /// Creates an image like that with the usual options.
    package static func create(
        path: String, lengthBytes: UInt64, clusterBytes: UInt64 = 65536,
        backing: Qcow2Backing? = nil, pool: IOPool = .guest
    ) throws(BlockError) {
        try create(
            path: path, lengthBytes: lengthBytes,
            options: Qcow2Options(clusterBytes: clusterBytes), backing: backing, pool: pool)
    }
}

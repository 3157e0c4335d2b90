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

/// Where QEMU's persistent bitmaps are listed in an image.
struct Qcow2BitmapDirectory: Sendable, Equatable {
    var count: UInt32
    var lengthBytes: UInt64
    var offset: UInt64
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
    /// The file that holds the guest's data, if that is not the image itself, as the header names
    /// it: relative names are relative to the image's folder.
    package var dataFileName: String?
    package var compression: Compression = .deflate
    package var incompatible: UInt64 = 0
    package var compatible: UInt64 = 0
    package var autoclear: UInt64 = 0
    package var snapshotCount: UInt32 = 0
    var snapshotOffset: UInt64 = 0
    /// The width of a refcount is two to this power, in bits.
    package var refcountOrder: Int = 4

    var l1Count: UInt32 = 0
    var l1Offset: UInt64 = 0
    var refcountTableOffset: UInt64 = 0
    var refcountTableClusters: UInt32 = 0
    var bitmaps: Qcow2BitmapDirectory?

    package var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }

    /// Whether the guest's data is in a file of its own.
    package var hasDataFile: Bool { incompatible & Qcow2Layout.Incompatible.externalData != 0 }

    /// Whether that file is a raw image of its own, too.
    package var hasRawDataFile: Bool {
        hasDataFile && autoclear & Qcow2Layout.Autoclear.rawDataFile != 0
    }

    /// The autoclear features that stay true whatever this driver writes.
    var keptAutoclear: UInt64 { hasRawDataFile ? Qcow2Layout.Autoclear.rawDataFile : 0 }

    /// Whether clusters are made of 32 subclusters each.
    package var hasSubclusters: Bool { incompatible & Qcow2Layout.Incompatible.extendedL2 != 0 }

    var geometry: Qcow2Geometry {
        Qcow2Geometry(
            clusterBits: clusterBits, sizeBytes: sizeBytes, hasSubclusters: hasSubclusters)
    }
}

extension Qcow2Header {
    /// Reads and validates the header of the image at `path`.
    package init(path: String) throws(BlockError) {
        try self.init(file: HostFile(path: path, access: .readOnly))
    }

    /// Reads and validates the header of the image in `file`.
    package init(file: any StorageFile) throws(BlockError) {
        let parser = try HeaderParser(file: file)
        self = try parser.header()
    }
}

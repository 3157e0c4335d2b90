// The numbers of the qcow2 format: where header fields lie, which bits of table entries mean what.
// Everything on disk is big-endian. The README of this folder has the layout as tables.

/// Constants of the on-disk format.
enum Qcow2Layout {
    static let magic: UInt32 = 0x5146_49FB
    static let headerBytesV2 = 72
    static let headerBytesV3 = 104
    /// With the compression type, which images need that are not compressed by deflate.
    static let headerBytesLong = 112
    static let backingNameBytesMax = 1023

    static let clusterBitsMin = 9
    static let clusterBitsMax = 21
    static let l1BytesMax: UInt64 = 32 << 20
    static let refcountTableBytesMax: UInt64 = 8 << 20
    static let refcountOrderMax = 6
    static let snapshotsMax: UInt32 = 65536
    /// Clusters with subclusters have at least 2 to this many bytes.
    static let extendedClusterBitsMin = 14

    /// Bits 9–55: the host offset in L1, standard L2 and, but for its low bits, refcount tables.
    static let offsetMask: UInt64 = 0x00FF_FFFF_FFFF_FE00
    /// The refcount is exactly one: the cluster or table may be changed in place.
    static let copied: UInt64 = 1 << 63
    static let compressed: UInt64 = 1 << 62
    /// The cluster reads as zeroes (version 3).
    static let zero: UInt64 = 1

    static let l1Reserved: UInt64 = 0x7F00_0000_0000_01FF
    static let l2Reserved: UInt64 = 0x3F00_0000_0000_01FE
    static let refcountTableReserved: UInt64 = 0x1FF

    /// Where the fields of the header lie.
    enum Field {
        static let magic = 0
        static let version = 4
        static let backingOffset = 8
        static let backingBytes = 16
        static let clusterBits = 20
        static let size = 24
        static let encryption = 32
        static let l1Count = 36
        static let l1Offset = 40
        static let refcountTableOffset = 48
        static let refcountTableClusters = 56
        static let snapshotCount = 60
        static let snapshotOffset = 64
        static let incompatible = 72
        static let compatible = 80
        static let autoclear = 88
        static let refcountOrder = 96
        static let headerBytes = 100
        static let compressionType = 104
    }

    /// The types of header extensions that this driver reads or writes.
    enum Extension {
        static let end: UInt32 = 0
        static let backingFormat: UInt32 = 0xE279_2ACA
        static let featureNames: UInt32 = 0x6803_F857
        static let bitmaps: UInt32 = 0x2385_2875
        static let dataFile: UInt32 = 0x4441_5441
    }

    /// The incompatible feature bits: a reader must know all that are set.
    enum Incompatible {
        static let dirty: UInt64 = 1 << 0
        static let corrupt: UInt64 = 1 << 1
        static let externalData: UInt64 = 1 << 2
        static let compressionType: UInt64 = 1 << 3
        static let extendedL2: UInt64 = 1 << 4
        static let known = dirty | corrupt | externalData | compressionType | extendedL2
    }

    /// The autoclear feature bits: whoever does not keep what one stands for clears it.
    enum Autoclear {
        static let bitmaps: UInt64 = 1 << 0
        /// The external data file is a raw image of its own.
        static let rawDataFile: UInt64 = 1 << 1
    }
}

extension UnsafeRawBufferPointer {
    /// The big-endian number at `offset`, which needs no alignment.
    func bigEndian<T: FixedWidthInteger>(at offset: Int, as type: T.Type = T.self) -> T {
        T(bigEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Stores `value` big-endian at `offset`, which needs no alignment.
    func storeBigEndian<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
    }
}

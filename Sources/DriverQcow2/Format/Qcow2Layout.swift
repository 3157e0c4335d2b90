// The numbers of the qcow2 format: where header fields lie, which bits of table entries mean what.
// Everything on disk is big-endian. The README of this folder has the layout as tables.

/// Constants of the on-disk format.
enum Qcow2Layout {
    static let magic: UInt32 = 0x5146_49FB
    static let headerBytesV2 = 72
    static let headerBytesV3 = 104
    static let backingNameBytesMax = 1023

    static let clusterBitsMin = 9
    static let clusterBitsMax = 21
    static let l1BytesMax: UInt64 = 32 << 20
    static let refcountTableBytesMax: UInt64 = 8 << 20
    static let refcountOrderMax = 6

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
    }

    /// The incompatible feature bits: a reader must know all that are set.
    enum Incompatible {
        static let dirty: UInt64 = 1 << 0
        static let corrupt: UInt64 = 1 << 1
        static let externalData: UInt64 = 1 << 2
        static let compressionType: UInt64 = 1 << 3
        static let extendedL2: UInt64 = 1 << 4
    }
}

/// What follows from the cluster size and the image size.
struct Qcow2Geometry: Sendable, Equatable {
    let clusterBits: Int
    let sizeBytes: UInt64

    var clusterBytes: UInt64 { 1 << UInt64(clusterBits) }
    /// L2 entries in one table, a table being one cluster of 8-byte entries.
    var l2EntryCount: Int { 1 << (clusterBits - 3) }
    /// The guest bytes that one L2 table maps.
    var l2CoverBits: Int { clusterBits + clusterBits - 3 }
    /// Guest clusters, the last perhaps in part.
    var clusterCount: UInt64 { (sizeBytes + clusterBytes - 1) >> UInt64(clusterBits) }
    /// The L1 entries that the size needs.
    var l1Count: UInt64 {
        (clusterCount + UInt64(l2EntryCount) - 1) >> UInt64(clusterBits - 3)
    }

    /// The L1 entry that maps a guest offset.
    func l1Index(of guestOffset: UInt64) -> Int { Int(guestOffset >> UInt64(l2CoverBits)) }

    /// The entry within its L2 table that maps a guest offset.
    func l2Index(of guestOffset: UInt64) -> Int {
        Int(guestOffset >> UInt64(clusterBits)) & (l2EntryCount - 1)
    }

    /// The clusters that hold `bytes`.
    func clusters(for bytes: UInt64) -> UInt64 {
        (bytes + clusterBytes - 1) >> UInt64(clusterBits)
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

import BlockCore

/// The list of QEMU's persistent bitmaps, which this driver does not keep up to date and therefore
/// marks as in use before guest data changes: that is how the format says that a bitmap missed
/// writes. QEMU then shows it as inconsistent, and removes it on request.
struct BitmapDirectory {
    private let place: Qcow2BitmapDirectory
    private let file: any StorageFile
    private var bytes: [UInt8]
    /// Where in `bytes` the flags of each bitmap are.
    private var flags: [Int] = []

    private static let bytesMax: UInt64 = 16 << 20
    private static let fixedBytes = 24
    private static let inUse: UInt32 = 1

    /// Reads the directory; nil if it contradicts the format.
    init?(
        _ place: Qcow2BitmapDirectory, file: any StorageFile, clusterBytes: UInt64
    ) throws(BlockError) {
        guard place.lengthBytes > 0, place.lengthBytes <= Self.bytesMax,
            place.offset >= clusterBytes, place.offset % clusterBytes == 0,
            place.offset <= UInt64(Int64.max) - place.lengthBytes,
            try place.offset + place.lengthBytes <= file.sizeBytes()
        else { return nil }
        self.place = place
        self.file = file
        bytes = [UInt8](repeating: 0, count: Int(place.lengthBytes))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: place.offset, into: bytes)
        }
        var offset = 0
        for _ in 0..<place.count {
            guard bytes.count - offset >= Self.fixedBytes else { return nil }
            flags.append(offset + 12)
            let (name, extra) = bytes.withUnsafeBytes {
                (
                    Int($0.bigEndian(at: offset + 18, as: UInt16.self)),
                    Int($0.bigEndian(at: offset + 20, as: UInt32.self))
                )
            }
            offset += (Self.fixedBytes + name + extra + 7) / 8 * 8
            guard offset <= bytes.count else { return nil }
        }
    }

    /// Says, durably, that all bitmaps missed writes.
    mutating func markInUse() throws(BlockError) {
        for offset in flags {
            bytes.withUnsafeMutableBytes { bytes in
                let flags = UnsafeRawBufferPointer(bytes).bigEndian(at: offset, as: UInt32.self)
                bytes.storeBigEndian(flags | Self.inUse, at: offset)
            }
        }
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.writeDurably(at: place.offset, from: bytes)
        }
    }
}

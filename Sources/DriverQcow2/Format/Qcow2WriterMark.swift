package import BlockCore

// A mark that tells whether anybody else has written an image since we closed it.
//
// It is an autoclear feature bit that QEMU does not know. Whoever opens an image for writing has
// to clear the autoclear bits that he does not know, so a mark that was set at our last close and
// is still there says that there was no other writer since, whatever the file's times say. Our own
// device clears it too, with all the others, before guest data first changes. A version 2 image
// has no such field.

/// Sets and reads the mark of an image that no device has open.
package enum Qcow2WriterMark {
    /// High, where a feature of the format is the least likely to be.
    static let bit: UInt64 = 1 << 62

    /// Sets the mark of the image at `path`, durably. Returns false if it cannot have one. Blocks.
    package static func set(path: String) throws(BlockError) -> Bool {
        let header = try Qcow2Header(path: path)
        guard header.version >= 3 else { return false }
        guard header.autoclear & bit == 0 else { return true }
        var bytes = [UInt8](repeating: 0, count: 8)
        bytes.withUnsafeMutableBytes { $0.storeBigEndian(header.autoclear | bit, at: 0) }
        let file = try HostFile(path: path, access: .readWrite)
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.write(at: UInt64(Qcow2Layout.Field.autoclear), from: bytes)
        }
        try file.flush()
        return true
    }

    /// Whether the image at `path` has the mark. Blocks.
    package static func isSet(path: String) throws(BlockError) -> Bool {
        try Qcow2Header(path: path).autoclear & bit != 0
    }
}

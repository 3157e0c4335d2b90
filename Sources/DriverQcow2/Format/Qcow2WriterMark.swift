package import BlockCore

// A mark that tells whether anybody else has written an image since we closed it.
//
// It is an autoclear feature bit that QEMU does not know. Whoever opens an image for writing has
// to clear the autoclear bits that he does not know, so a mark that was set at our last close and
// is still there says that there was no other writer since, whatever the file's times say. Our own
// device clears it too, with all the others, before guest data first changes. A version 2 image
// has no such field.

/// Reads the mark of an image that no device has open.
package enum Qcow2WriterMark {
    /// High, where a feature of the format is the least likely to be.
    static let bit: UInt64 = 1 << 62

    /// Whether the image at `path` has the mark. Blocks.
    package static func isSet(path: String) throws(BlockError) -> Bool {
        try Qcow2Header(path: path).autoclear & bit != 0
    }
}

extension Qcow2Device {
    /// Sets the mark of this image, which was written and is closed, durably. Returns false if it
    /// cannot have one. Blocks.
    package func markAsLastWriter() throws(BlockError) -> Bool {
        guard header.version >= 3 else { return false }
        let field = UInt64(Qcow2Layout.Field.autoclear)
        let present = try file.readNumbers(1, at: field)[0]
        guard present & Qcow2WriterMark.bit == 0 else { return true }
        try file.writeNumbers([present | Qcow2WriterMark.bit], at: field)
        try file.flush()
        return true
    }
}

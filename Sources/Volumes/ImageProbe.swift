package import BlockCore
import DriverQcow2

// The format of an image that a user names without its format is guessed from its first bytes,
// once, at the import; from then on the catalog has it. Those bytes may be a guest's: whoever had
// the disk as a raw image can have written the header of another format into it. Therefore
//
//   - what looks like qcow2 and names other files is refused until the user says that it is qcow2:
//     the guest would else choose what file of the host it gets to see
//   - what looks like a format that is not known here is refused, not taken for raw
//   - what looks like nothing in particular is taken for raw, with a warning

/// A guess at the format of an image.
package struct ImageProbe: Sendable {
    package let format: ImageFormat
    /// What the user should know about the guess, if anything.
    package let warning: String?

    /// Formats that would be mistaken for raw, by how they begin.
    private static let foreignFormats: [(start: String, name: String)] = [
        ("KDMV", "VMDK"), ("COWD", "VMDK"), ("# Disk DescriptorFile", "VMDK"),
        ("vhdxfile", "VHDX"), ("conectix", "VHD"), ("QED\0", "QED"), ("LUKS\u{BA}\u{BE}", "LUKS"),
        ("<<< ", "VDI"), ("WithoutFreeSpace", "Parallels"), ("WithouFreSpacExt", "Parallels"),
    ]

    /// Looks at the first bytes of the file at `path`. Blocks.
    package init(path: String) throws(BlockError) {
        let lock = try ImageLock(path: path, use: .reading)
        defer { lock.release() }
        var bytes = [UInt8](repeating: 0, count: 512)
        let file = try HostFile(path: path, access: .readOnly)
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        if try ImageOpener.probe(path: path) == .qcow2 {
            let header = try Qcow2Device.readHeader(path: path)
            if header.backing != nil || header.hasDataFile {
                throw BlockError(
                    .invalid, "guess the format", on: path,
                    detail: "it looks like a qcow2 image that names another file "
                        + "(\(header.backing?.name ?? "for its data")), and a guest could have "
                        + "written that into a raw one: say --format qcow2 or --format raw")
            }
            format = .qcow2
            warning = nil
            return
        }
        for foreign in Self.foreignFormats
        where bytes.starts(with: foreign.start.unicodeScalars.map { UInt8($0.value) }) {
            throw BlockError(
                .unsupported, "guess the format", on: path,
                detail: "it looks like \(foreign.name): convert it with `qemu-img convert`, or say "
                    + "--format raw if it is a raw image whose guest wrote that")
        }
        format = .raw
        warning =
            "\(path) was taken for a raw image since it looks like nothing else: "
            + "say --format next time"
    }
}

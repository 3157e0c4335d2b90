package import BlockCore

/// What a volume may be called: its name is an export, a part of paths and of messages.
package enum VolumeName {
    private static let bytesMax = 128

    /// Throws `invalid` unless `name` consists of letters, digits, `.`, `_`, `-`, `+`, begins with
    /// a letter or digit, and has at most 128 bytes.
    package static func check(_ name: String) throws(BlockError) {
        let isGood =
            name.utf8.count <= bytesMax
            && name.utf8.first.map(isLetterOrDigit) == true
            && name.utf8.allSatisfy { isLetterOrDigit($0) || "._-+".utf8.contains($0) }
        guard isGood else {
            throw BlockError(
                .invalid, "name a volume", on: name,
                detail: "use letters, digits and . _ - +, a letter or digit first, "
                    + "at most \(bytesMax) bytes")
        }
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: false
        }
    }
}

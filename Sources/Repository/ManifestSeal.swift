// A manifest vouches for itself: `manifestSHA256` is the SHA-256 of the file's text, in which the
// value itself is replaced by 64 zeros, followed by the SHA-256 of the digest table as it stands
// in the manifest of a point, or by nothing in that of a group. So any change of any byte is found.
// Because the text counts and not its meaning, a manifest that was formatted anew does not pass:
// copy it, do not rewrite it.

import Foundation

/// The seal of a manifest's file.
enum ManifestSeal {
    /// What stands in the place of the seal while it is computed.
    static let placeholder = String(repeating: "0", count: 64)

    private static let key = Data("\"manifestSHA256\"".utf8)

    /// The sealed file of `manifest`, in which the placeholder stands for the seal, and the seal.
    /// Nil if there is no such file.
    static func encode(
        _ manifest: some Encodable, suffix: String
    ) -> (bytes: [UInt8], seal: String)? {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard var text = try? encoder.encode(manifest), let value = range(in: text) else {
            return nil
        }
        text.append(UInt8(ascii: "\n"))
        let seal = digest(of: text, suffix)
        text.replaceSubrange(value, with: Data(seal.utf8))
        return ([UInt8](text), seal)
    }

    /// What the seal of the file must be; nil if it has no place for one.
    static func seal(of bytes: [UInt8], suffix: String) -> String? {
        var text = Data(bytes)
        guard let value = range(in: text) else { return nil }
        text.replaceSubrange(value, with: Data(placeholder.utf8))
        return digest(of: text, suffix)
    }

    private static func digest(of text: Data, _ suffix: String) -> String {
        var hash = SHA256Stream()
        hash.update([UInt8](text))
        hash.update(Array(suffix.utf8))
        return hash.text
    }

    /// Where the 64 digits stand; nil unless the key is there exactly once. Inside a JSON string
    /// its quotation marks would have a backslash before them.
    private static func range(in text: Data) -> Range<Int>? {
        guard let found = text.range(of: key),
            text.range(of: key, in: found.upperBound..<text.endIndex) == nil
        else { return nil }
        var start = found.upperBound
        let skipped = Data(" \t\r\n:".utf8)
        while start < text.endIndex, skipped.contains(text[start]) { start += 1 }
        start += 1
        let end = start + placeholder.utf8.count
        guard end < text.endIndex, text[start - 1] == UInt8(ascii: "\""),
            text[end] == UInt8(ascii: "\""), text[start..<end].allSatisfy(Hexadecimal.isDigit)
        else { return nil }
        return start..<end
    }
}

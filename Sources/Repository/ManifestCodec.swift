// A manifest vouches for itself: `manifestSHA256` is the SHA-256 of the file's text, in which the
// value itself is replaced by 64 zeros, followed by the SHA-256 of the digest table as it stands
// in the manifest. So any change of any byte of either file is found. Because the text counts and
// not its meaning, a manifest that was formatted anew does not pass: copy it, do not rewrite it.

import BlockCore
import Foundation

/// Turns manifests into their files and back, sealing and checking.
enum ManifestCodec {
    /// What stands in the place of the manifest's own SHA-256 while it is computed.
    static let placeholder = String(repeating: "0", count: 64)

    /// The longest manifest that is read.
    static let lengthBytesMax = 1 << 20

    private static let key = Data("\"manifestSHA256\"".utf8)

    /// The file of `manifest`, and the manifest with its seal.
    static func encode(
        _ manifest: Manifest
    ) throws(BlockError) -> (sealed: Manifest, bytes: [UInt8]) {
        func refuse(_ detail: String) -> BlockError {
            BlockError(.invalid, "write the manifest", on: manifest.point.text, detail: detail)
        }
        var sealed = manifest
        sealed.manifestSHA256 = placeholder
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard var text = try? encoder.encode(sealed), let value = sealRange(in: text) else {
            throw refuse("it has no JSON form")
        }
        text.append(UInt8(ascii: "\n"))
        guard text.count <= lengthBytesMax else {
            throw refuse("it has \(text.count) bytes, at most \(lengthBytesMax) are allowed")
        }
        let seal = seal(of: text, table: sealed.extents.sha256)
        text.replaceSubrange(value, with: Data(seal.utf8))
        sealed.manifestSHA256 = seal
        return (sealed, [UInt8](text))
    }

    /// Reads the manifest that the file `place` holds, and checks its seal and its sense.
    static func decode(_ bytes: [UInt8], place: String) throws(BlockError) -> Manifest {
        struct Version: Decodable {
            var formatVersion: Int
        }
        func refuse(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
            BlockError(kind, "read the manifest", on: place, detail: detail)
        }
        let text = Data(bytes)
        guard let version = try? JSONDecoder().decode(Version.self, from: text) else {
            throw refuse(.corrupt, "it is not JSON, or has no format version")
        }
        guard version.formatVersion <= Manifest.formatVersion else {
            throw refuse(
                .unsupported,
                "format version \(version.formatVersion); this version reads up to "
                    + "\(Manifest.formatVersion): use a newer tidemark")
        }
        let manifest: Manifest
        do {
            manifest = try JSONDecoder().decode(Manifest.self, from: text)
        } catch {
            throw refuse(.corrupt, "a field is missing or wrong: \(reason(of: error))")
        }
        guard let value = sealRange(in: text) else {
            throw refuse(.corrupt, "its SHA-256 is missing or not in its place")
        }
        var unsealed = text
        unsealed.replaceSubrange(value, with: Data(placeholder.utf8))
        let found = seal(of: unsealed, table: manifest.extents.sha256)
        guard found == manifest.manifestSHA256 else {
            throw refuse(
                .corrupt, "its SHA-256 is \(found), it says \(manifest.manifestSHA256)")
        }
        if let fault = manifest.fault { throw refuse(.corrupt, fault) }
        return manifest
    }

    private static func seal(of text: Data, table: String) -> String {
        var hash = SHA256Stream()
        hash.update([UInt8](text))
        hash.update(Array(table.utf8))
        return hash.text
    }

    /// Where the 64 digits stand; nil unless the key is there exactly once. Inside a JSON string
    /// its quotation marks would have a backslash before them.
    private static func sealRange(in text: Data) -> Range<Int>? {
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

    /// The sense of a decoder's error, without its type names.
    static func reason(of error: any Error) -> String {
        func path(_ context: DecodingError.Context) -> String {
            context.codingPath.map(\.stringValue).joined(separator: ".")
        }
        switch error {
        case DecodingError.keyNotFound(let key, let context):
            return "no \((context.codingPath + [key]).map(\.stringValue).joined(separator: "."))"
        case DecodingError.typeMismatch(_, let context),
            DecodingError.valueNotFound(_, let context),
            DecodingError.dataCorrupted(let context):
            return "\(path(context)): \(context.debugDescription)"
        default:
            return String(describing: error)
        }
    }
}

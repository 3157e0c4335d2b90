import BlockCore
import Foundation

/// Turns manifests into their files and back, sealing and checking.
enum ManifestCodec {
    /// The longest manifest that is read.
    static let lengthBytesMax = 1 << 20

    /// The file of `manifest`, and the manifest with its seal.
    static func encode(
        _ manifest: Manifest
    ) throws(BlockError) -> (sealed: Manifest, bytes: [UInt8]) {
        func refuse(_ detail: String) -> BlockError {
            BlockError(.invalid, "write the manifest", on: manifest.point.text, detail: detail)
        }
        var sealed = manifest
        sealed.manifestSHA256 = ManifestSeal.placeholder
        guard let (bytes, seal) = ManifestSeal.encode(sealed, suffix: sealed.extents.sha256) else {
            throw refuse("it has no JSON form")
        }
        guard bytes.count <= lengthBytesMax else {
            throw refuse("it has \(bytes.count) bytes, at most \(lengthBytesMax) are allowed")
        }
        sealed.manifestSHA256 = seal
        return (sealed, bytes)
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
        guard let found = ManifestSeal.seal(of: bytes, suffix: manifest.extents.sha256) else {
            throw refuse(.corrupt, "its SHA-256 is missing or not in its place")
        }
        guard found == manifest.manifestSHA256 else {
            throw refuse(
                .corrupt, "its SHA-256 is \(found), it says \(manifest.manifestSHA256)")
        }
        if let fault = manifest.fault { throw refuse(.corrupt, fault) }
        return manifest
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

package import BlockCore
import Foundation

/// What a repository says about itself: the content of `tidemark-repository.json`.
package struct RepositoryDescription: Codable, Hashable, Sendable {
    /// The version of the format that this code writes, and the newest that it reads.
    package static let formatVersion = 1

    /// The name of the file, or object, that makes a place a repository.
    package static let fileName = "tidemark-repository.json"

    static let lengthBytesMax = 64 << 10

    package var formatVersion = RepositoryDescription.formatVersion
    package var uuid: String
    package var created: UTCTime
    package var digestAlgorithm: DigestAlgorithm

    /// A new repository's, with a fresh uuid.
    package init(algorithm: DigestAlgorithm) {
        uuid = UUID().uuidString.lowercased()
        created = .now()
        digestAlgorithm = algorithm
    }

    /// The file's bytes.
    package func encoded() throws(BlockError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let text = try? encoder.encode(self) else {
            throw BlockError(.invalid, "describe the repository", on: uuid)
        }
        return [UInt8](text) + [UInt8(ascii: "\n")]
    }

    /// Reads the file's bytes; `place` is what messages call the repository.
    package init(decoding bytes: [UInt8], place: String) throws(BlockError) {
        struct Version: Decodable {
            var formatVersion: Int
        }
        func refuse(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
            BlockError(kind, "open the repository", on: place, detail: detail)
        }
        let text = Data(bytes)
        guard let version = try? JSONDecoder().decode(Version.self, from: text) else {
            throw refuse(.corrupt, "\(Self.fileName) is not JSON, or has no format version")
        }
        guard version.formatVersion <= Self.formatVersion else {
            throw refuse(
                .unsupported,
                "its format version is \(version.formatVersion), this version reads up to "
                    + "\(Self.formatVersion): use a newer tidemark")
        }
        guard version.formatVersion >= 1 else {
            throw refuse(.corrupt, "format version \(version.formatVersion) never existed")
        }
        do {
            self = try JSONDecoder().decode(RepositoryDescription.self, from: text)
        } catch {
            throw refuse(.corrupt, "\(Self.fileName): \(ManifestCodec.reason(of: error))")
        }
    }
}

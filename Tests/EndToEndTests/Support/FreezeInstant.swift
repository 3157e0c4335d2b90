import Foundation
import TestSupport

/// When the freeze of a point was, by the manifest at `path`: milliseconds since 1970.
func freezeMilliseconds(ofManifest path: String) throws -> Int64 {
    struct Manifest: Decodable {
        struct Freeze: Decodable { let time: String }
        let freeze: Freeze
    }
    let manifest = try JSONDecoder().decode(Manifest.self, from: Data(try readFile(path)))
    let date = try Date(
        manifest.freeze.time, strategy: Date.ISO8601FormatStyle(includingFractionalSeconds: true))
    return Int64((date.timeIntervalSince1970 * 1000).rounded())
}

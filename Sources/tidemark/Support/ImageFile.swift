import Control
import Volumes

/// Image files that a user names.
enum ImageFile {
    /// The format of `path`: the one given, or what its first bytes show.
    static func format(
        _ path: String, given format: Control.ImageFormat?
    ) throws -> Volumes.ImageFormat {
        guard let format else { return try ImageOpener.probe(path: path) }
        guard let known = Volumes.ImageFormat(rawValue: format.rawValue) else {
            throw CommandFailure(.usage, "\(path): the format \(format.rawValue) is not a file's")
        }
        return known
    }
}

import BlockCore
import DriverNBD
import Glibc

// An image names other files: its backing file, and perhaps one for its data. Whoever made it chose
// those names, and the agent may read, or write, what that person may not: a downloaded image that
// names /etc/shadow as its raw backing file would show it to the guest. So an image that a user
// brings reaches no further than its own folder until the user says that it may. What was opened
// once is recorded, and is opened again whatever its folder.

/// Which files an image may name.
package enum ImageReach: Sendable {
    /// Those in the image's own folder, and in folders inside that.
    case ownFolder
    /// Any file, and exports of NBD servers.
    case anywhere
}

/// The folder in which all files of a chain must be.
struct ImageFolder: Sendable {
    /// Without links or dots; nil where any place will do.
    private let path: String?

    /// What the image at `path` may name.
    init(of path: String, _ reach: ImageReach) throws(BlockError) {
        guard reach == .ownFolder, !NBDDevice.isURI(path) else {
            self.path = nil
            return
        }
        let folder = HostDirectory.parent(of: path)
        guard let real = Self.realPath(folder) else {
            throw .system("open", on: folder, errno: errno)
        }
        self.path = real
    }

    /// Throws unless `named`, which the image at `path` names, may be opened.
    func check(_ named: String, of path: String) throws(BlockError) {
        guard let folder = self.path else { return }
        if !NBDDevice.isURI(named) {
            // One that does not exist is refused by whoever opens it.
            guard let real = Self.realPath(named) else { return }
            if real.hasPrefix(folder == "/" ? "/" : folder + "/") { return }
        }
        throw BlockError(
            .invalid, "open", on: path,
            detail: "it names \(named), which is outside of its folder \(folder), and whoever made "
                + "it may have meant to get at that: if it belongs to the image, "
                + "say --allow-outside, or name it in `backing` of blockdev-add")
    }

    /// Whether the file at `path` is in `folder`, by whatever links.
    static func contains(_ path: String, in folder: String) -> Bool {
        guard let real = realPath(path), let folder = realPath(folder) else { return false }
        return real.hasPrefix(folder == "/" ? "/" : folder + "/")
    }

    private static func realPath(_ path: String) -> String? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return String(cString: real)
    }
}

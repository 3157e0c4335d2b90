import BlockCore

/// How the image that a snapshot or a mirror is to write comes to be, in QEMU's words.
package enum NewImageMode: String, Sendable, CaseIterable {
    /// It is there, with whatever backing it names.
    case existing
    /// It is made, and names its backing by an absolute path.
    case absolutePaths = "absolute-paths"
    /// It is made, and names its backing by a path from its own folder.
    case relativePaths = "relative-paths"

    /// What the header of an image at `path` is to call the file `backing`.
    func name(of backing: String, from path: String) -> String {
        guard self == .relativePaths, !backing.contains("://") else { return backing }
        let own = HostDirectory.parent(of: path).split(separator: "/")
        let other = backing.split(separator: "/")
        var shared = 0
        while shared < own.count, shared < other.count - 1, own[shared] == other[shared] {
            shared += 1
        }
        let up = Array(repeating: "..", count: own.count - shared)
        let relative = (up + other[shared...].map(String.init)).joined(separator: "/")
        // What has a colon before the first slash would be taken for a protocol.
        return relative.prefix { $0 != "/" }.contains(":") ? "./\(relative)" : relative
    }
}

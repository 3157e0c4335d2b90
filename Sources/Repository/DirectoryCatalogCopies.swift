import BlockCore

/// The copies of agents' catalogs in a directory repository: `catalogs/NAME.sqlite`, each replaced
/// at one instant. They are opaque here.
struct DirectoryCatalogCopies {
    private static let folderName = "catalogs"
    private static let suffix = ".sqlite"
    private static let lengthBytesMax = 1 << 30
    /// What is younger may be of a writer at work, perhaps on another host.
    private static let leftoverAgeSeconds = 3600

    private let folder: String

    /// Of the repository in `root`.
    init(root: String) {
        folder = "\(root)/\(Self.folderName)"
    }

    /// Makes `bytes` the copy under `name`, durably.
    func put(_ bytes: [UInt8], named name: String) throws(BlockError) {
        let path = try path(of: name)
        try HostDirectory.create(folder)
        try HostDirectory.flush(HostDirectory.parent(of: folder))
        try HostDirectory.replaceFile(path, with: bytes)
    }

    /// The names of all copies, in order.
    func names() throws(BlockError) -> [String] {
        try fileNames().filter { $0.hasSuffix(Self.suffix) }
            .map { String($0.dropLast(Self.suffix.count)) }.filter(VolumeFolder.isUUID)
    }

    /// The copy under `name`.
    func read(_ name: String) throws(BlockError) -> [UInt8] {
        try HostDirectory.readFile(try path(of: name), limitBytes: Self.lengthBytesMax)
    }

    /// Removes what crashed writers left, and says so in `removed`.
    func sweep(_ removed: inout [String]) throws(BlockError) {
        for name in try fileNames() {
            // `HostDirectory.replaceFile` writes to NAME.sqlite.PID.NUMBER.tmp.
            let parts = name.split(separator: ".", omittingEmptySubsequences: false)
            let path = "\(folder)/\(name)"
            guard parts.count == 5, VolumeFolder.isUUID(String(parts[0])), parts[1] == "sqlite",
                UInt32(parts[2]) != nil, UInt32(parts[3]) != nil, parts[4] == "tmp",
                let age = HostDirectory.ageSeconds(of: path), age > Self.leftoverAgeSeconds
            else { continue }
            try HostDirectory.removeFile(path)
            removed.append(path)
        }
    }

    private func fileNames() throws(BlockError) -> [String] {
        guard HostDirectory.exists(folder) else { return [] }
        return try HostDirectory.names(in: folder)
    }

    /// A name comes from a catalog or a user, and becomes a part of a path.
    private func path(of name: String) throws(BlockError) -> String {
        guard VolumeFolder.isUUID(name) else {
            throw BlockError(
                .invalid, "use the copy of a catalog", on: name, detail: "that is no uuid")
        }
        return "\(folder)/\(name)\(Self.suffix)"
    }
}

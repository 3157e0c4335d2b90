package import BlockCore

/// Removes what a restore to a volume leaves if the agent is killed after the volume was
/// registered: the other name of its image, and the journal. All other leftovers are for the same
/// restore to go on with.
package enum RestoreSweep {
    /// Looks through `folder` for other names of the images at `paths`, which volumes use. Returns
    /// what was removed. Blocks.
    package static func run(
        folder: String, paths: [String]
    ) throws(BlockError) -> [String] {
        guard HostDirectory.exists(folder) else { return [] }
        let used = Set(paths.compactMap(HostFile.identity(of:)))
        var removed: [String] = []
        for name in try HostDirectory.names(in: folder) where name.hasSuffix(NewImage.suffix) {
            let path = "\(folder)/\(name)"
            guard let identity = HostFile.identity(of: path), used.contains(identity),
                !paths.contains(path)
            else { continue }
            let journal = path.dropLast(NewImage.suffix.count) + NewImage.journalSuffix
            for path in [path, String(journal)] {
                try HostDirectory.removeFile(path)
                removed.append(path)
            }
        }
        return removed
    }
}

import Control

/// Volumes for people.
enum VolumeText {
    /// Everything about one volume.
    static func text(_ volume: VolumeInfo) -> String {
        var lines = [
            "name     \(volume.name)",
            "uuid     \(volume.uuid)",
            "size     \(ByteSize.text(volume.size)) (\(volume.size) bytes)",
            "state    \(volume.state)\(volume.reason.map { ": \($0)" } ?? "")",
            "clients  \(volume.connections)",
            "bitmaps  survive \(volume.durability == "power" ? "a power loss" : "the agent's end")",
            "backing  \(volume.backingMode)",
            "uri      \(volume.exported ? volume.uri : "(not exported)")",
        ]
        lines += chain(volume)
        let bitmaps = BitmapText.table(volume.bitmaps)
        if !bitmaps.isEmpty { lines += ["", bitmaps] }
        return lines.joined(separator: "\n")
    }

    /// The files that it consists of, from the top down.
    static func chain(_ volume: VolumeInfo) -> [String] {
        volume.nodes.enumerated().map { index, node in
            let title = index == 0 ? "chain    " : "         "
            let data = node.dataFile.map { ", data in \($0)" } ?? ""
            return "\(title)\(node.file) (\(node.format)\(node.direct ? ", direct" : "")\(data))"
        }
    }
}

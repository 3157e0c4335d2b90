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
            "uri      \(volume.exported ? volume.uri : "(not exported)")",
        ]
        for (index, node) in volume.nodes.enumerated() {
            let title = index == 0 ? "chain    " : "         "
            lines.append("\(title)\(node.file) (\(node.format)\(node.direct ? ", direct" : ""))")
        }
        let bitmaps = BitmapText.table(volume.bitmaps)
        if !bitmaps.isEmpty { lines += ["", bitmaps] }
        return lines.joined(separator: "\n")
    }
}

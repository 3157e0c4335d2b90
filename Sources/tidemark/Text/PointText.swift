import Control

/// Restore points for people.
enum PointText {
    /// One line per point.
    static func table(_ points: [PointInfo]) -> String {
        var table = TextTable([
            .text("POINT"), .text("VOLUME"), .text("CREATED"), .text("LEVEL"), .number("STORED"),
            .text("REPOSITORY"), .text("STATE"),
        ])
        for point in points {
            table.append([
                point.id, point.volume, point.created, "\(point.level) (\(point.reason))",
                ByteSize.text(point.storedBytes), point.repository, point.state,
            ])
        }
        return table.text
    }

    /// Everything about one point.
    static func details(_ point: PointInfo) -> String {
        var lines = [
            "point       \(point.id)",
            "volume      \(point.volume) (\(point.volumeUUID))",
            "repository  \(point.repository)",
            "created     \(point.created)",
            "level       \(point.level) (\(point.reason))",
            "parent      \(point.parent ?? "-")",
            "size        \(ByteSize.text(point.size)) (\(point.size) bytes)",
            "stored      \(ByteSize.text(point.storedBytes))",
        ]
        if let group = point.group { lines.append("group       \(group)") }
        if let seconds = point.freezeDurationSeconds {
            lines.append("frozen      \(TimeText.measured(seconds))")
        }
        lines.append("state       \(point.state)")
        return lines.joined(separator: "\n")
    }
}

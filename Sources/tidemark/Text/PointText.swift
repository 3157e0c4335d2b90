import Control

/// Restore points for people.
enum PointText {
    /// One line per point.
    static func table(_ points: [PointInfo]) -> String {
        let hasGroups = points.contains { $0.group != nil }
        var columns: [TextTable.Column] = [
            .text("POINT"), .text("VOLUME"), .text("CREATED"), .text("LEVEL"), .number("STORED"),
            .text("REPOSITORY"), .text("STATE"),
        ]
        if hasGroups { columns.append(.text("GROUP")) }
        var table = TextTable(columns)
        for point in points {
            let cells = [
                point.id, point.volume, point.created, "\(point.level) (\(point.reason))",
                ByteSize.text(point.storedBytes), point.repository, point.state,
            ]
            table.append(hasGroups ? cells + [group(of: point)] : cells)
        }
        return table.text
    }

    private static func group(of point: PointInfo) -> String {
        guard let group = point.group else { return "" }
        return point.groupMembers == nil ? "\(group) (not complete)" : group
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
        if let explanation = point.explanation { lines.append("because     \(explanation)") }
        if let group = point.group {
            let members = point.groupMembers?.joined(separator: " ")
            lines.append("group       \(group)")
            lines.append("members     \(members ?? "the group is not complete")")
        }
        if let seconds = point.freezeDurationSeconds {
            lines.append("frozen      \(TimeText.measured(seconds))")
        }
        if let seconds = point.worstWriteDelaySeconds {
            lines.append("delay       \(TimeText.measured(seconds)) at most for a write")
        }
        lines.append("state       \(point.state)")
        return lines.joined(separator: "\n")
    }
}

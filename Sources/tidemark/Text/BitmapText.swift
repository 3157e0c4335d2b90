import Control

/// Dirty bitmaps for people.
enum BitmapText {
    /// One line per bitmap.
    static func table(_ bitmaps: [BitmapInfo]) -> String {
        var table = TextTable([
            .text("BITMAP"), .number("DIRTY"), .number("GRANULARITY"), .text("STATE"),
            .text("CONTINUES"),
        ])
        for bitmap in bitmaps {
            table.append([
                bitmap.name, ByteSize.text(bitmap.count),
                ByteSize.text(UInt64(bitmap.granularity)), state(bitmap),
                bitmap.continuesPoint ?? "-",
            ])
        }
        return table.text
    }

    private static func state(_ bitmap: BitmapInfo) -> String {
        if bitmap.inconsistent == true {
            return "inconsistent" + (bitmap.reason.map { " (\($0))" } ?? "")
        }
        var words = [bitmap.recording ? "recording" : "disabled"]
        if bitmap.busy { words.append("busy") }
        if !bitmap.persistent { words.append("transient") }
        return words.joined(separator: ", ")
    }
}

/// Lengths of time for people.
enum TimeText {
    /// A measured time: "3 ms", "0.8 s", "75 s", "1:02:03".
    static func measured(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0 else { return "?" }
        if seconds < 0.0995 { return "\(Int((seconds * 1000).rounded())) ms" }
        if seconds < 9.95 { return "\((seconds * 10).rounded() / 10) s" }
        if seconds < 99.5 { return "\(Int(seconds.rounded())) s" }
        return clock(seconds)
    }

    /// A time as minutes and seconds, with hours where there are any: "0:07", "1:02:03".
    static func clock(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
        let all = Int(seconds.rounded())
        let tail = "\(twoDigits(all / 60 % 60)):\(twoDigits(all % 60))"
        if all >= 3600 { return "\(all / 3600):\(tail)" }
        return tail.hasPrefix("0") ? String(tail.dropFirst()) : tail
    }

    private static func twoDigits(_ number: Int) -> String {
        number < 10 ? "0\(number)" : "\(number)"
    }
}

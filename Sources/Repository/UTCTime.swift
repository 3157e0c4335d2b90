import Glibc

/// An instant in UTC to the millisecond, between the years 1970 and 9999.
package struct UTCTime: Hashable, Sendable {
    /// Milliseconds since the beginning of 1970.
    package let milliseconds: Int64

    private static let millisecondsMax: Int64 = 253_402_300_799_999

    /// Nil outside the years that the text forms can show.
    package init?(milliseconds: Int64) {
        guard (0...Self.millisecondsMax).contains(milliseconds) else { return nil }
        self.milliseconds = milliseconds
    }

    /// What the system's clock says; a clock outside the representable years is taken to its
    /// nearest end.
    package static func now() -> UTCTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        let milliseconds = Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
        let clamped = min(max(milliseconds, 0), millisecondsMax)
        return UTCTime(unchecked: clamped)
    }

    private init(unchecked milliseconds: Int64) {
        self.milliseconds = milliseconds
    }

    /// The next millisecond; nil after the last that can be shown.
    package var next: UTCTime? { UTCTime(milliseconds: milliseconds + 1) }

    /// ISO 8601 with milliseconds: `2026-11-21T03:00:00.123Z`.
    package var text: String { format(date: "-", time: ":") }

    /// The same without separators, which is a fit part of a file name: `20261121T030000.123Z`.
    package var compactText: String { format(date: "", time: "") }

    /// Reads exactly what `text` writes; nil for anything else, days that do not exist included.
    package init?(text: some StringProtocol) {
        self.init(text, date: "-", time: ":")
    }

    /// Reads exactly what `compactText` writes.
    package init?(compactText: some StringProtocol) {
        self.init(compactText, date: "", time: "")
    }

    private init?(_ text: some StringProtocol, date: String, time: String) {
        let digits = text.utf8.filter { $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }
        guard digits.count == 17 else { return nil }
        func number(_ from: Int, _ count: Int) -> Int32 {
            digits[from..<from + count].reduce(0) { $0 * 10 + Int32($1 - UInt8(ascii: "0")) }
        }
        var fields = tm()
        fields.tm_year = number(0, 4) - 1900
        fields.tm_mon = number(4, 2) - 1
        fields.tm_mday = number(6, 2)
        fields.tm_hour = number(8, 2)
        fields.tm_min = number(10, 2)
        fields.tm_sec = number(12, 2)
        let milliseconds = Int64(timegm(&fields)) * 1000 + Int64(number(14, 3))
        guard let value = UTCTime(milliseconds: milliseconds) else { return nil }
        // `timegm` carries a 31st of June over to July and the digits alone say nothing about
        // what stood between them: only what prints the same was meant.
        guard value.format(date: date, time: time) == String(text) else { return nil }
        self = value
    }

    private func format(date: String, time: String) -> String {
        var seconds = time_t(milliseconds / 1000)
        var fields = tm()
        gmtime_r(&seconds, &fields)
        func pad(_ number: some BinaryInteger, _ width: Int) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        return pad(fields.tm_year + 1900, 4) + date + pad(fields.tm_mon + 1, 2) + date
            + pad(fields.tm_mday, 2) + "T" + pad(fields.tm_hour, 2) + time + pad(fields.tm_min, 2)
            + time + pad(fields.tm_sec, 2) + "." + pad(milliseconds % 1000, 3) + "Z"
    }
}

extension UTCTime: Comparable {
    package static func < (left: UTCTime, right: UTCTime) -> Bool {
        left.milliseconds < right.milliseconds
    }
}

extension UTCTime: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let time = UTCTime(text: text) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "\"\(text)\" is no UTC time with milliseconds")
        }
        self = time
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

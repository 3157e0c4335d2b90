package import BlockCore

/// The name of a restore point, such as `20261121T030000.123Z-4f2a91c3`: the time at which it was
/// made and eight random hexadecimal digits.
///
/// The text sorts by time and is fit to be a file name. An id is always above its parent's, so
/// that the order of ids is an order in which every point follows what it depends on.
package struct PointID: Hashable, Sendable {
    package let text: String

    private static let timeLength = 20
    private static let suffixLength = 8

    /// A new id, above `parent` even if the clock went back since: then it is one millisecond
    /// later than the parent, whatever the clock says.
    package init(
        after parent: PointID? = nil, now: UTCTime = .now()
    ) throws(BlockError) {
        var time = now
        if let parent, parent.time >= now {
            guard let next = parent.time.next else {
                throw BlockError(
                    .invalid, "make a point id", on: parent.text,
                    detail: "no later time can be written; start a new chain with a full backup")
            }
            time = next
        }
        let digits = String(UInt32.random(in: 0 ... .max), radix: 16)
        let padding = String(repeating: "0", count: Self.suffixLength - digits.count)
        text = "\(time.compactText)-\(padding)\(digits)"
    }

    /// Reads an id; nil unless `text` is exactly what this type writes. What is accepted holds
    /// neither a slash nor a leading dot.
    package init?(_ text: some StringProtocol) {
        let bytes = Array(text.utf8)
        guard bytes.count == Self.timeLength + 1 + Self.suffixLength,
            bytes[Self.timeLength] == UInt8(ascii: "-"),
            UTCTime(compactText: text.prefix(Self.timeLength)) != nil,
            bytes.suffix(Self.suffixLength).allSatisfy(Hexadecimal.isDigit)
        else { return nil }
        self.text = String(text)
    }

    /// The time that the id carries.
    package var time: UTCTime {
        guard let time = UTCTime(compactText: text.prefix(Self.timeLength)) else {
            preconditionFailure("an id always begins with a time")
        }
        return time
    }
}

extension PointID: Comparable {
    package static func < (left: PointID, right: PointID) -> Bool { left.text < right.text }
}

extension PointID: CustomStringConvertible {
    package var description: String { text }
}

extension PointID: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        guard let id = PointID(text) else {
            throw DecodingError.dataCorruptedError(
                in: container, debugDescription: "\"\(text)\" is no point id")
        }
        self = id
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

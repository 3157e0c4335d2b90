package import BlockCore

/// A part of a volume that a restore could not bring back for certain.
package struct LostRange: Hashable, Sendable {
    package var range: ByteRange
    /// What is there instead, and why.
    package var reason: String

    package init(range: ByteRange, reason: String) {
        self.range = range
        self.reason = reason
    }
}

/// What a restore lost, in bounded memory: where ranges become too many, those that are near each
/// other are joined, and the bytes between them are called lost as well. Nothing lost is left out.
package struct LostRanges: Sendable {
    private static let countMax = 4096

    private var ranges: [LostRange] = []
    private var gapBytes: UInt64 = 0

    package init() {}

    package var isEmpty: Bool { ranges.isEmpty }

    /// All of them, ascending; those that touch and have the same reason are one.
    package var all: [LostRange] { Self.joined(ranges, gapBytes: gapBytes) }

    /// Adds `lost`, in any order.
    package mutating func add(_ lost: [LostRange]) {
        for range in lost {
            if let last = ranges.last, last.range.end == range.range.offset,
                last.reason == range.reason
            {
                ranges[ranges.count - 1].range.lengthBytes += range.range.lengthBytes
            } else {
                ranges.append(range)
            }
        }
        guard ranges.count > Self.countMax else { return }
        ranges = Self.joined(ranges, gapBytes: gapBytes)
        while ranges.count > Self.countMax / 2 {
            gapBytes = max(gapBytes * 2, 64 << 10)
            ranges = Self.joined(ranges, gapBytes: gapBytes)
        }
    }

    private static func joined(_ ranges: [LostRange], gapBytes: UInt64) -> [LostRange] {
        var result: [LostRange] = []
        for lost in ranges.sorted(by: { $0.range.offset < $1.range.offset }) {
            if let last = result.last, lost.range.offset <= last.range.end + gapBytes,
                gapBytes > 0 || last.reason == lost.reason
            {
                let end = max(last.range.end, lost.range.end)
                result[result.count - 1].range = ByteRange(offset: last.range.offset, end: end)
            } else {
                result.append(lost)
            }
        }
        return result
    }
}

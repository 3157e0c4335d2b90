import ArgumentParser

/// A number of bytes as people write it: digits, then perhaps K, M, G or T for powers of 1024.
struct ByteSize: ExpressibleByArgument, Equatable {
    var bytes: UInt64

    init?(argument: String) {
        var digits = Substring(argument)
        var shift = 0
        if let last = argument.last, !last.isNumber {
            guard let power = "KMGT".firstIndex(of: Character(last.uppercased())) else {
                return nil
            }
            shift = 10 * ("KMGT".distance(from: "KMGT".startIndex, to: power) + 1)
            digits = digits.dropLast()
        }
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let number = UInt64(digits), number <= UInt64.max >> shift
        else { return nil }
        bytes = number << shift
    }

    /// `bytes` for people: at most one decimal, in the largest unit that gives at least 1.
    static func text(_ bytes: UInt64) -> String {
        guard bytes >= 1024 else { return "\(bytes) B" }
        let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var value = Double(bytes) / 1024
        var unit = 0
        // 1023.95 would be rounded to 1024.0 of its unit.
        while value >= 1023.95, unit + 1 < units.count {
            value /= 1024
            unit += 1
        }
        let tenths = (value * 10).rounded()
        let isWhole = tenths.truncatingRemainder(dividingBy: 10) == 0
        return isWhole ? "\(Int(tenths) / 10) \(units[unit])" : "\(tenths / 10) \(units[unit])"
    }
}

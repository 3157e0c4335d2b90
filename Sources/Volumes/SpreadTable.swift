/// Values by number, of which no addition takes long.
///
/// A dictionary that outgrows its memory moves everything that it has, and whoever adds the one
/// entry too many waits for that: with a million of them for tens of milliseconds, which a guest
/// would see. Spread over many dictionaries, each such move is small.
struct SpreadTable<Value: Sendable>: Sendable {
    private var parts: [[UInt64: Value]] = Array(repeating: [:], count: 256)

    subscript(key: UInt64) -> Value? {
        get { parts[Self.part(of: key)][key] }
        _modify { yield &parts[Self.part(of: key)][key] }
    }

    subscript(key: UInt64, default value: @autoclosure () -> Value) -> Value {
        get { parts[Self.part(of: key)][key, default: value()] }
        _modify { yield &parts[Self.part(of: key)][key, default: value()] }
    }

    /// Takes out the value of `key`, if there is one.
    mutating func remove(_ key: UInt64) -> Value? {
        parts[Self.part(of: key)].removeValue(forKey: key)
    }

    /// Neighbours, and multiples of anything, end up in different parts.
    private static func part(of key: UInt64) -> Int {
        Int((key &* 0x9E37_79B9_7F4A_7C15) >> 56)
    }
}

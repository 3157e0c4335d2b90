/// The types that a single JSON token spells.
protocol JSONPrimitive: Decodable {
    /// The token's kind, as error messages and the schema call it.
    static var jsonType: String { get }
    /// Some value, for walking through a type without data.
    static var sample: Self { get }
    /// The value of `json`; nil if it is of another kind or does not fit.
    init?(json: JSONValue)
}

extension Bool: JSONPrimitive {
    static var jsonType: String { "boolean" }
    static var sample: Bool { false }

    init?(json: JSONValue) {
        guard case .bool(let value) = json else { return nil }
        self = value
    }
}

extension String: JSONPrimitive {
    static var jsonType: String { "string" }
    static var sample: String { "" }

    init?(json: JSONValue) {
        guard case .string(let value) = json else { return nil }
        self = value
    }
}

extension Double: JSONPrimitive {
    static var jsonType: String { "number" }
    static var sample: Double { 0 }

    init?(json: JSONValue) {
        switch json {
        case .double(let value): self = value
        case .int(let value): self = Double(value)
        case .uint(let value): self = Double(value)
        default: return nil
        }
    }
}

extension JSONPrimitive where Self: FixedWidthInteger {
    static var jsonType: String { Self.isSigned ? "integer" : "unsigned integer" }
    static var sample: Self { 0 }

    init?(json: JSONValue) {
        guard let value = json.integer(Self.self) else { return nil }
        self = value
    }
}

extension Int: JSONPrimitive {}
extension Int64: JSONPrimitive {}
extension UInt32: JSONPrimitive {}
extension UInt64: JSONPrimitive {}

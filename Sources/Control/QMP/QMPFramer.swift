// Clients send JSON values one after another; the newline between them is a habit, not a rule
// (the `qemu.qmp` package sends none). So the framer finds the end of a value by its brackets.
// It looks no deeper: whether what it cut out is JSON is for the parser to say.
//
// After bad input it goes on where that is safe: garbage between values ends at a newline or at
// the next opening bracket, and a newline inside a string (which JSON forbids) ends the value
// that it stands in. A value that is too long or too deep has no such place: it ends the stream.

/// Cuts a stream of bytes into JSON objects and arrays.
struct QMPFramer {
    /// What the stream turned out to hold.
    enum Item: Equatable {
        /// The bytes from an opening bracket to its counterpart.
        case value([UInt8])
        /// Something else; the stream goes on behind it.
        case garbage(String)
        /// Something too large to go on from; nothing follows.
        case fatal(String)
    }

    private enum State {
        case between
        case garbage
        case value
        case string
        case escape
        case ended
    }

    private let valueBytesMax: Int
    private let depthMax: Int
    private var state = State.between
    private var depth = 0
    private var pending: [UInt8] = []

    init(valueBytesMax: Int, depthMax: Int) {
        self.valueBytesMax = valueBytesMax
        self.depthMax = depthMax
    }

    /// Whether the stream stands inside a value.
    var isInsideValue: Bool { state == .value || state == .string || state == .escape }

    /// Takes the next bytes of the stream and returns what they complete.
    mutating func consume(_ bytes: some Sequence<UInt8>) -> [Item] {
        var items: [Item] = []
        for byte in bytes {
            if let item = consume(byte) { items.append(item) }
            if state == .ended { break }
        }
        return items
    }

    private mutating func consume(_ byte: UInt8) -> Item? {
        switch state {
        case .between: return begin(byte)
        case .garbage:
            if byte == UInt8(ascii: "\n") {
                state = .between
                return nil
            }
            return byte.opensJSON ? begin(byte) : nil
        case .value, .string, .escape:
            pending.append(byte)
            guard pending.count <= valueBytesMax else {
                return end("a message of more than \(valueBytesMax) bytes")
            }
            return advance(byte)
        case .ended: return nil
        }
    }

    private mutating func begin(_ byte: UInt8) -> Item? {
        if byte.isJSONSpace { return nil }
        guard byte.opensJSON else {
            state = .garbage
            return .garbage("QMP input must be a JSON object")
        }
        pending = [byte]
        depth = 1
        state = .value
        return nil
    }

    private mutating func advance(_ byte: UInt8) -> Item? {
        switch (state, byte) {
        case (.escape, _):
            state = .string
        case (.string, UInt8(ascii: "\\")):
            state = .escape
        case (.string, UInt8(ascii: "\"")):
            state = .value
        case (.string, UInt8(ascii: "\n")):
            pending = []
            state = .between
            return .garbage("JSON parse error, a string does not end on its line")
        case (.string, _):
            break
        case (_, UInt8(ascii: "\"")):
            state = .string
        case (_, UInt8(ascii: "{")), (_, UInt8(ascii: "[")):
            depth += 1
            if depth > depthMax { return end("a message nested deeper than \(depthMax) levels") }
        case (_, UInt8(ascii: "}")), (_, UInt8(ascii: "]")):
            depth -= 1
            if depth == 0 {
                defer { pending = [] }
                state = .between
                return .value(pending)
            }
        default:
            break
        }
        return nil
    }

    private mutating func end(_ message: String) -> Item {
        pending = []
        state = .ended
        return .fatal("JSON parse error, \(message)")
    }
}

extension UInt8 {
    fileprivate var opensJSON: Bool { self == UInt8(ascii: "{") || self == UInt8(ascii: "[") }
}

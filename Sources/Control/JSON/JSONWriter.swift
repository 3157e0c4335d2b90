extension JSONValue {
    /// The value on one line, keys in alphabetical order.
    package var compactText: String {
        var writer = JSONWriter(isPretty: false)
        writer.write(self, level: 0)
        return writer.text
    }

    /// The value on indented lines, keys in alphabetical order, without a final newline.
    package var prettyText: String {
        var writer = JSONWriter(isPretty: true)
        writer.write(self, level: 0)
        return writer.text
    }
}

private struct JSONWriter {
    let isPretty: Bool
    var text = ""

    mutating func write(_ value: JSONValue, level: Int) {
        switch value {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .int(let value): text += String(value)
        case .uint(let value): text += String(value)
        case .double(let value): text += value.isFinite ? "\(value)" : "null"
        case .string(let value): write(string: value)
        case .array(let elements): write(array: elements, level: level)
        case .object(let members): write(object: members, level: level)
        }
    }

    private mutating func write(array elements: [JSONValue], level: Int) {
        text += "["
        for (index, element) in elements.enumerated() {
            separate(index, level: level + 1)
            write(element, level: level + 1)
        }
        if !elements.isEmpty { breakLine(level: level) }
        text += "]"
    }

    private mutating func write(object members: [String: JSONValue], level: Int) {
        text += "{"
        for (index, key) in members.keys.sorted().enumerated() {
            separate(index, level: level + 1)
            write(string: key)
            text += ": "
            write(members[key] ?? .null, level: level + 1)
        }
        if !members.isEmpty { breakLine(level: level) }
        text += "}"
    }

    private mutating func separate(_ index: Int, level: Int) {
        if index > 0 { text += isPretty ? "," : ", " }
        breakLine(level: level)
    }

    private mutating func breakLine(level: Int) {
        if isPretty { text += "\n" + String(repeating: "  ", count: level) }
    }

    private mutating func write(string: String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "\0"..<" ", "\u{7f}":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }
}

// Decoding of arguments, with the messages of QEMU.
//
// What makes this worth a decoder of its own: it knows the path of the member that is wrong
// ("bitmaps[0].node"), so that the message can name it as the client spelled it, and it notices
// the members that nobody asked for, so that a misspelled optional argument is an error instead
// of being ignored. Results are decoded leniently: a newer agent may say more than this client
// knows.

/// Decodes one value of a JSON tree.
struct JSONValueDecoder: Decoder {
    let value: JSONValue
    /// Where in the arguments the value stands: empty at the top, else like `bitmaps[0].node`.
    let path: String
    /// Notes which members were asked for; one per value.
    let asked = AskedKeys()
    let codingPath: [any CodingKey] = []
    let userInfo: [CodingUserInfoKey: Any] = [:]
    let refusesUnknownMembers: Bool

    /// Decodes `value`, which the messages call `path`.
    static func decode<T: Decodable>(
        _ type: T.Type, from value: JSONValue, path: String = "", refusesUnknownMembers: Bool
    ) throws(ControlError) -> T {
        if let value = value as? T { return value }
        if let primitive = type as? any JSONPrimitive.Type {
            guard let result = primitive.init(json: value) as? T else {
                throw .wrongType(path, expected: primitive.jsonType)
            }
            return result
        }
        let decoder = JSONValueDecoder(
            value: value, path: path, refusesUnknownMembers: refusesUnknownMembers)
        let result: T
        do {
            result = try T(from: decoder)
        } catch let error as ControlError {
            throw error
        } catch DecodingError.dataCorrupted(let context) {
            if let text = value.stringValue { throw .refusedValue(path, text) }
            throw .generic("Parameter '\(path)': \(context.debugDescription)")
        } catch {
            throw .generic("Parameter '\(path)': \(error)")
        }
        if refusesUnknownMembers { try decoder.checkEveryMemberAsked() }
        return result
    }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        guard case .object(let members) = value else {
            throw ControlError.wrongType(path, expected: "object")
        }
        asked.start()
        return KeyedDecodingContainer(KeyedMembers(members: members, decoder: self))
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        guard case .array(let elements) = value else {
            throw ControlError.wrongType(path, expected: "array")
        }
        return Elements(elements: elements, decoder: self)
    }

    func singleValueContainer() -> any SingleValueDecodingContainer { SingleValue(decoder: self) }

    /// Decodes a part of this value.
    func decodePart<T: Decodable>(
        _ type: T.Type, _ part: JSONValue, path: String
    ) throws(ControlError) -> T {
        try Self.decode(type, from: part, path: path, refusesUnknownMembers: refusesUnknownMembers)
    }

    func memberPath(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    private func checkEveryMemberAsked() throws(ControlError) {
        guard let asked = asked.keys, case .object(let members) = value else { return }
        if let key = members.keys.sorted().first(where: { !asked.contains($0) }) {
            throw .generic("Parameter '\(memberPath(key))' is unexpected")
        }
    }
}

/// Which members of one object the decoded type asked for; nil keys if it asked for no object.
final class AskedKeys {
    private(set) var keys: Set<String>?

    func start() { if keys == nil { keys = [] } }
    func note(_ key: String) { keys?.insert(key) }
}

private struct KeyedMembers<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let members: [String: JSONValue]
    let decoder: JSONValueDecoder

    var codingPath: [any CodingKey] { [] }

    var allKeys: [Key] {
        members.keys.forEach(decoder.asked.note)
        return members.keys.compactMap { Key(stringValue: $0) }
    }

    func contains(_ key: Key) -> Bool {
        decoder.asked.note(key.stringValue)
        return members[key.stringValue] != nil
    }

    func decodeNil(forKey key: Key) throws -> Bool { try member(key) == .null }

    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T {
        try decoder.decodePart(type, member(key), path: decoder.memberPath(key.stringValue))
    }

    func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type, forKey key: Key
    ) throws -> KeyedDecodingContainer<Nested> {
        try superDecoder(forKey: key).container(keyedBy: type)
    }

    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
        try superDecoder(forKey: key).unkeyedContainer()
    }

    func superDecoder() throws -> any Decoder { decoder }

    func superDecoder(forKey key: Key) throws -> any Decoder {
        JSONValueDecoder(
            value: try member(key), path: decoder.memberPath(key.stringValue),
            refusesUnknownMembers: false)
    }

    private func member(_ key: Key) throws(ControlError) -> JSONValue {
        decoder.asked.note(key.stringValue)
        guard let member = members[key.stringValue] else {
            throw .generic("Parameter '\(decoder.memberPath(key.stringValue))' is missing")
        }
        return member
    }
}

private struct Elements: UnkeyedDecodingContainer {
    let elements: [JSONValue]
    let decoder: JSONValueDecoder
    var currentIndex = 0

    var codingPath: [any CodingKey] { [] }
    var count: Int? { elements.count }
    var isAtEnd: Bool { currentIndex >= elements.count }

    mutating func decodeNil() throws -> Bool {
        guard !isAtEnd, elements[currentIndex] == .null else { return false }
        currentIndex += 1
        return true
    }

    mutating func decode<T: Decodable>(_ type: T.Type) throws -> T {
        let (element, path) = try next()
        return try decoder.decodePart(type, element, path: path)
    }

    mutating func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type
    ) throws -> KeyedDecodingContainer<Nested> {
        try superDecoder().container(keyedBy: type)
    }

    mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer {
        try superDecoder().unkeyedContainer()
    }

    mutating func superDecoder() throws -> any Decoder {
        let (element, path) = try next()
        return JSONValueDecoder(value: element, path: path, refusesUnknownMembers: false)
    }

    private mutating func next() throws(ControlError) -> (JSONValue, path: String) {
        let path = "\(decoder.path)[\(currentIndex)]"
        guard !isAtEnd else { throw .generic("Parameter '\(path)' is missing") }
        defer { currentIndex += 1 }
        return (elements[currentIndex], path)
    }
}

private struct SingleValue: SingleValueDecodingContainer {
    let decoder: JSONValueDecoder

    var codingPath: [any CodingKey] { [] }

    func decodeNil() -> Bool { decoder.value == .null }

    func decode<T: Decodable>(_ type: T.Type) throws -> T {
        try decoder.decodePart(type, decoder.value, path: decoder.path)
    }
}

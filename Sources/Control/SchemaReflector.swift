// The schema is read off the Swift types themselves, so that it cannot disagree with them: each
// type is decoded once by a decoder without data, which notes what is asked of it. A member that
// is asked for with `contains` first is an optional one.

/// Describes commands, events and the types they use as `query-qmp-schema` does.
final class SchemaReflector {
    private var descriptions: [String: JSONValue] = [:]

    /// The types met so far, sorted by name.
    var types: [JSONValue] { descriptions.sorted { $0.key < $1.key }.map(\.value) }

    /// The entry of a command.
    func describe<Command: ControlCommand>(_ command: Command.Type) throws -> JSONValue {
        [
            "name": .string(Command.name), "meta-type": "command", "allow-oob": false,
            "arg-type": .string(try name(of: Command.Arguments.self)),
            "ret-type": .string(try name(of: Command.Result.self)),
        ]
    }

    /// The entry of an event.
    func describe(_ event: ControlEvent) throws -> JSONValue {
        [
            "name": .string(event.rawValue), "meta-type": "event",
            "arg-type": .string(try name(of: event.dataType)),
        ]
    }

    /// The name under which `type` stands among `types`.
    fileprivate func name<T: Decodable>(of type: T.Type) throws -> String {
        if type == JSONValue.self {
            return builtin("any", jsonType: "value")
        }
        if let primitive = type as? any JSONPrimitive.Type {
            return primitive.schemaName(in: self)
        }
        if let list = type as? any ReflectedList.Type {
            return try list.schemaName(in: self)
        }
        if let alternate = type as? any ReflectedAlternate.Type {
            return try describe(alternate: alternate)
        }
        if let union = type as? any ReflectedUnion.Type {
            return try describe(union: union)
        }
        if let union = type as? any ReflectedFlatUnion.Type {
            return try describe(flatUnion: union)
        }
        let name = String(reflecting: type).split(separator: ".").dropFirst()
            .joined(separator: ".")
        guard descriptions[name] == nil else { return name }
        if let enumeration = type as? any (CaseIterable & RawRepresentable).Type {
            descriptions[name] = describe(enumeration: enumeration, name: name)
            return name
        }
        descriptions[name] = .null
        let members = MemberList()
        _ = try T(from: RecordingDecoder(members: members, reflector: self))
        descriptions[name] = [
            "name": .string(name), "meta-type": "object", "members": .array(members.described),
        ]
        return name
    }

    fileprivate func builtin(_ name: String, jsonType: String) -> String {
        descriptions[name] = [
            "name": .string(name), "meta-type": "builtin", "json-type": .string(jsonType),
        ]
        return name
    }

    fileprivate func list(of element: String) -> String {
        descriptions["[\(element)]"] = [
            "name": .string("[\(element)]"), "meta-type": "array", "element-type": .string(element),
        ]
        return "[\(element)]"
    }

    private func describe(alternate: any ReflectedAlternate.Type) throws -> String {
        let name = String(describing: alternate)
        let members = try alternate.alternatives.map { type -> JSONValue in
            ["type": .string(try self.name(of: type))]
        }
        descriptions[name] = [
            "name": .string(name), "meta-type": "alternate", "members": .array(members),
        ]
        return name
    }

    /// As QEMU has it: the member `type` says what kind of object the rest is, here one with `data`.
    private func describe(union: any ReflectedUnion.Type) throws -> String {
        let name = String(describing: union)
        guard descriptions[name] == nil else { return name }
        descriptions[name] = .null
        let variants = try union.variants.map { kind, type -> JSONValue in
            let wrapper = "\(name).\(kind)"
            descriptions[wrapper] = [
                "name": .string(wrapper), "meta-type": "object",
                "members": [["name": "data", "type": .string(try self.name(of: type))]],
            ]
            return ["case": .string(kind), "type": .string(wrapper)]
        }
        descriptions[name] = [
            "name": .string(name), "meta-type": "object", "tag": "type",
            "members": [["name": "type", "type": .string(try self.name(of: union.kinds))]],
            "variants": .array(variants),
        ]
        return name
    }

    /// As QEMU has it: one member says which others there are beside the common ones.
    private func describe(flatUnion union: any ReflectedFlatUnion.Type) throws -> String {
        let name = String(describing: union)
        guard descriptions[name] == nil else { return name }
        descriptions[name] = .null
        let common = MemberList()
        try record(union.common, in: common)
        let variants = try union.variants.map { kind, type -> JSONValue in
            ["case": .string(kind), "type": .string(try self.name(of: type))]
        }
        descriptions[name] = [
            "name": .string(name), "meta-type": "object", "tag": .string(union.tag),
            "members": .array(common.described), "variants": .array(variants),
        ]
        return name
    }

    private func record<T: Decodable>(_ type: T.Type, in members: MemberList) throws {
        _ = try T(from: RecordingDecoder(members: members, reflector: self))
    }

    private func describe<E: CaseIterable & RawRepresentable>(
        enumeration: E.Type, name: String
    ) -> JSONValue {
        let values = E.allCases.map { JSONValue.string("\($0.rawValue)") }
        return [
            "name": .string(name), "meta-type": "enum", "values": .array(values),
            "members": .array(values.map { ["name": $0] }),
        ]
    }
}

/// A type that several kinds of JSON values spell.
protocol ReflectedAlternate: Decodable {
    static var alternatives: [any Decodable.Type] { get }
    static var sample: Self { get }
}

/// A type whose members `type` and `data` say what it is and what it holds.
protocol ReflectedUnion: Decodable {
    /// The type of `type`.
    static var kinds: any Decodable.Type { get }
    /// The types of `data`, by the values of `type`.
    static var variants: [(String, any Decodable.Type)] { get }
    static var sample: Self { get }
}

/// A type of which one member says which members there are besides the common ones.
protocol ReflectedFlatUnion: ReflectedSample {
    /// The name of that member.
    static var tag: String { get }
    /// The type that has the common members, that one among them.
    static var common: any Decodable.Type { get }
    /// The types of the others, by the values of the tag.
    static var variants: [(String, any Decodable.Type)] { get }
}

/// A type that cannot be sampled by walking through it: it may hold itself.
protocol ReflectedSample: Decodable {
    static var sample: Self { get }
}

private protocol ReflectedList: Decodable {
    static var sample: Self { get }
    static func schemaName(in reflector: SchemaReflector) throws -> String
}

extension Array: ReflectedList where Element: Decodable {
    fileprivate static var sample: [Element] { [] }

    fileprivate static func schemaName(in reflector: SchemaReflector) throws -> String {
        reflector.list(of: try reflector.name(of: Element.self))
    }
}

extension JSONPrimitive {
    fileprivate static func schemaName(in reflector: SchemaReflector) -> String {
        switch jsonType {
        case "string": reflector.builtin("str", jsonType: "string")
        case "boolean": reflector.builtin("bool", jsonType: "boolean")
        case "number": reflector.builtin("number", jsonType: "number")
        default: reflector.builtin("int", jsonType: "int")
        }
    }
}

private final class MemberList {
    private var optional: Set<String> = []
    private(set) var described: [JSONValue] = []

    func noteOptional(_ key: String) { optional.insert(key) }

    func note(_ key: String, type: String) {
        var member: [String: JSONValue] = ["name": .string(key), "type": .string(type)]
        if optional.contains(key) { member["default"] = .null }
        described.append(.object(member))
    }
}

/// Walks through a type without data; see the top of the file.
private struct RecordingDecoder: Decoder {
    let members: MemberList
    let reflector: SchemaReflector
    let codingPath: [any CodingKey] = []
    let userInfo: [CodingUserInfoKey: Any] = [:]

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedDecodingContainer<Key> {
        KeyedDecodingContainer(RecordingMembers(decoder: self))
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer { throw Self.notDescribable }

    func singleValueContainer() throws -> any SingleValueDecodingContainer {
        throw Self.notDescribable
    }

    static var notDescribable: ControlError {
        .generic("only types with plain members can be described")
    }
}

private struct RecordingMembers<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let decoder: RecordingDecoder

    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] { [] }

    func contains(_ key: Key) -> Bool {
        decoder.members.noteOptional(key.stringValue)
        return true
    }

    func decodeNil(forKey key: Key) -> Bool { false }

    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T {
        let name = try decoder.reflector.name(of: type)
        decoder.members.note(key.stringValue, type: name)
        guard let sample = try Self.sample(of: type, decoder) as? T else {
            throw RecordingDecoder.notDescribable
        }
        return sample
    }

    private static func sample<T: Decodable>(
        of type: T.Type, _ decoder: RecordingDecoder
    ) throws -> Any {
        if type == JSONValue.self { return JSONValue.null }
        if let primitive = type as? any JSONPrimitive.Type { return primitive.sample }
        if let list = type as? any ReflectedList.Type { return list.sample }
        if let alternate = type as? any ReflectedAlternate.Type { return alternate.sample }
        if let union = type as? any ReflectedUnion.Type { return union.sample }
        if let sampled = type as? any ReflectedSample.Type { return sampled.sample }
        if let cases = type as? any CaseIterable.Type, let first = firstCase(cases) {
            return first
        }
        return try T(
            from: RecordingDecoder(members: MemberList(), reflector: decoder.reflector))
    }

    private static func firstCase<E: CaseIterable>(_ type: E.Type) -> E? { type.allCases.first }

    func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type, forKey key: Key
    ) throws -> KeyedDecodingContainer<Nested> { throw RecordingDecoder.notDescribable }

    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer {
        throw RecordingDecoder.notDescribable
    }

    func superDecoder() throws -> any Decoder { throw RecordingDecoder.notDescribable }

    func superDecoder(forKey key: Key) throws -> any Decoder {
        throw RecordingDecoder.notDescribable
    }
}

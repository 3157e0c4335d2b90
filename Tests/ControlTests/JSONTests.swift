import Testing

@testable import Control

/// JSON texts, in and out.
struct JSONTests {
    private static func parse(_ text: String) throws -> JSONValue {
        try JSONParser.parse(Array(text.utf8), depthMax: 8)
    }

    @Test func everyKindOfValueIsRead() throws {
        let text =
            #" {"a": [null, true, false], "b": -7, "c": 1.5e3, "d": "x\u00e9\ud83d\ude00\n"} "#
        #expect(
            try Self.parse(text)
                == ["a": [nil, true, false], "b": -7, "c": 1500.0, "d": "xé😀\n"])
    }

    @Test func integersKeepAll64Bits() throws {
        #expect(try Self.parse("9223372036854775807") == .int(.max))
        #expect(try Self.parse("-9223372036854775808") == .int(.min))
        #expect(try Self.parse("18446744073709551615") == .uint(.max))
        #expect(try Self.parse("18446744073709551616") == .double(18446744073709551616))
    }

    @Test(arguments: [
        "", "{", "[1,]", #"{"a":1,}"#, #"{"a" 1}"#, "01", "-", "1.", "1e", "+1", "nul", "'a'",
        #""\x""#, #""\ud800""#, #""\ud800\u0041""#, #""\udc00""#, #""\u12g4""#, "\"\u{1}\"", "1 2",
        #"{"a":1,"a":2}"#, "[[[[[[[[[]]]]]]]]]", "1e999", "{]", "tru", "\"abc",
    ])
    func whatIsNotJSONIsRefused(_ text: String) {
        #expect(throws: JSONSyntaxError.self) { try Self.parse(text) }
    }

    @Test func aStringThatIsNotUTF8IsRefused() {
        #expect(throws: JSONSyntaxError.self) {
            try JSONParser.parse([0x22, 0xC3, 0x28, 0x22])
        }
    }

    @Test func everythingPrefixedOfAMessageIsRefusedWithoutATrap() throws {
        let bytes = Array(#"{"a":[1.5e-3,"\ud83d\ude00\n",{"b":null}],"c":true}"#.utf8)
        for length in 0..<bytes.count {
            #expect(throws: JSONSyntaxError.self) {
                try JSONParser.parse(Array(bytes[..<length]))
            }
        }
    }

    @Test func writtenTextReadsBackAsTheSame() throws {
        let value: JSONValue = [
            "s": "a\"b\\c\u{0}\u{1f}\u{7f}\n\té😀", "n": [0, -1, 2.5, 1e20, .uint(.max)],
            "o": [:], "l": [], "z": nil,
        ]
        #expect(try Self.parse(value.compactText) == value)
        #expect(try Self.parse(value.prettyText) == value)
        #expect(!value.compactText.contains("\n"))
    }

    @Test func codableValuesKeepTheirShape() throws {
        let value: JSONValue = ["a": [1, .uint(.max), "x", nil, true, 1.5], "b": ["c": [:]]]
        struct Holder: Codable { var inner: JSONValue }
        let encoded = try JSONValue(encoding: Holder(inner: value))
        #expect(encoded == ["inner": value])
        let decoded = try JSONValueDecoder.decode(
            Holder.self, from: encoded, refusesUnknownMembers: true)
        #expect(decoded.inner == value)
    }
}

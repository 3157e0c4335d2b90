import Foundation
import TestSupport
import Testing

@testable import Control

/// How a stream of bytes becomes messages.
struct FramerTests {
    private static func framer(bytes: Int = 1000, depth: Int = 8) -> QMPFramer {
        QMPFramer(valueBytesMax: bytes, depthMax: depth)
    }

    private static func items(_ chunks: [String], bytes: Int = 1000) -> [QMPFramer.Item] {
        var framer = framer(bytes: bytes)
        return chunks.flatMap { framer.consume($0.utf8) }
    }

    private static func value(_ text: String) -> QMPFramer.Item { .value(Array(text.utf8)) }

    @Test func aMessageSplitAtAnyByteComesOutWhole() {
        let text = #"{"execute": "a{[\"\\", "arguments": {"x": [1, {"y": "}"}]}, "id": "é"}"#
        let bytes = Array(text.utf8)
        for split in 0...bytes.count {
            var framer = Self.framer()
            let items = framer.consume(bytes[..<split]) + framer.consume(bytes[split...])
            #expect(items == [.value(bytes)], "split at \(split)")
            #expect(!framer.isInsideValue)
        }
    }

    @Test func messagesNeedNothingBetweenThem() {
        #expect(
            Self.items([#"{"a":1}{"b":2}[3]"#, "\r\n {} "])
                == [#"{"a":1}"#, #"{"b":2}"#, "[3]", "{}"].map(Self.value))
    }

    @Test func garbageIsReportedOnceAndEndsAtTheNextMessage() {
        let items = Self.items(["hello, world {}", "12 x\n{}"])
        #expect(items.count == 4)
        #expect(items[1] == Self.value("{}") && items[3] == Self.value("{}"))
        for index in [0, 2] {
            guard case .garbage = items[index] else {
                Issue.record("garbage was expected, not \(items[index])")
                continue
            }
        }
    }

    @Test func aStrayClosingBracketIsGarbage() {
        #expect(Self.items(["}\n{}"]).last == Self.value("{}"))
    }

    @Test func aStringThatDoesNotEndOnItsLineIsGivenUp() {
        let items = Self.items(["{\"execute\": \"oops\n{\"execute\":\"x\"}"])
        #expect(items.count == 2)
        #expect(items.last == Self.value(#"{"execute":"x"}"#))
    }

    @Test func aMessageThatIsTooDeepEndsTheStream() {
        let items = Self.items([String(repeating: "[", count: 9), "{}"])
        #expect(items == [.fatal("JSON parse error, a message nested deeper than 8 levels")])
    }

    @Test func theDeepestAllowedMessagePasses() {
        let text = String(repeating: "[", count: 8) + String(repeating: "]", count: 8)
        #expect(Self.items([text]) == [Self.value(text)])
    }

    @Test func aMessageThatIsTooLongEndsTheStream() {
        let text = "[\"" + String(repeating: "x", count: 96) + "\"]"
        #expect(Self.items([text], bytes: 100) == [Self.value(text)])
        #expect(
            Self.items([text], bytes: 99)
                == [.fatal("JSON parse error, a message of more than 99 bytes")])
    }

    /// The cuts of a stream must not matter, whatever it holds.
    @Test func anyStreamMeansTheSameHoweverItIsCut() throws {
        let seed = Seed.current
        var random = SplitMix64(seed: seed)
        let pieces = ["{", "}", "[", "]", "\"", "\\", "\n", " ", "x", "1", ":", ",", "é", "{}\n"]
        for _ in 0..<500 {
            let length = Int.random(in: 1...80, using: &random)
            let stream = (0..<length).map { _ in pieces.randomElement(using: &random) ?? "" }
            let bytes = Array(stream.joined().utf8)
            var whole = Self.framer(bytes: 60)
            let expected = whole.consume(bytes)
            var cut = Self.framer(bytes: 60)
            var items: [QMPFramer.Item] = []
            var position = 0
            while position < bytes.count {
                let end = min(bytes.count, position + Int.random(in: 1...7, using: &random))
                items += cut.consume(bytes[position..<end])
                position = end
            }
            try #require(items == expected, "TIDEMARK_SEED=\(seed): \(stream.joined())")
            for case .value(let value) in items { _ = try? JSONParser.parse(value, depthMax: 8) }
        }
    }
}

import FuzzDriver

@testable import Control

// The bytes are what a client sends on the control socket. They are cut into values twice, whole
// and byte by byte, which must come to the same; and what is JSON must survive being written.

private func items(_ pieces: some Sequence<some Sequence<UInt8>>) -> [QMPFramer.Item] {
    var framer = QMPFramer(valueBytesMax: 1 << 16, depthMax: 64)
    return pieces.flatMap { framer.consume($0) }
}

@main enum Fuzzer {
    static func main() { fuzz { serve($0, $1) } }
}

private func serve(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    let input = Array(UnsafeBufferPointer(start: bytes, count: count))
    let whole = items([input])
    precondition(whole == items(input.lazy.map { CollectionOfOne($0) }))
    for case .value(let value) in whole { check(value) }
    check(input)
    return 0
}

private func check(_ bytes: [UInt8]) {
    guard let value = try? JSONParser.parse(bytes) else { return }
    for text in [value.compactText, value.prettyText] {
        guard let again = try? JSONParser.parse(Array(text.utf8)) else {
            preconditionFailure("what was written is no JSON")
        }
        precondition(again == value, "what was written is something else")
    }
}

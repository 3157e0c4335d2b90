import BlockCore
import Testing

@Suite struct ByteRangeTests {
    @Test func x() { #expect(ByteRange(offset: 1, end: 0).isEmpty) }
}

import TestSupport
import Testing

@testable import BlockCore

@Suite struct BufferTests {
    @Test func aByteAnywhereIsSeenByTheZeroScan() {
        for count in [0, 1, 15, 16, 17, 31, 64, 1000] {
            var bytes = [UInt8](repeating: 0, count: count)
            #expect(bytes.withUnsafeBytes { $0.isAllZero })
            for index in 0..<count {
                bytes[index] = 1
                #expect(!bytes.withUnsafeBytes { $0.isAllZero }, "byte \(index) of \(count)")
                bytes[index] = 0
            }
        }
    }

    @Test func aBufferIsUsedAgainWhenItsLastReferenceGoes() {
        let pool = BufferPool(idleBytesMax: 1 << 20)
        var buffer: AlignedBuffer? = pool.take(5000)
        let address = buffer!.base
        #expect(buffer!.capacityBytes == 64 << 10 && UInt(bitPattern: address) % 4096 == 0)
        var slice: BufferSlice? = buffer!.prefix(10)
        buffer = nil
        let other = pool.take(5000)
        #expect(other.base != address, "a slice still refers to it")
        #expect(slice!.count == 10)
        slice = nil
        #expect(pool.take(6000).base == address)
    }

    @Test func whatThePoolKeepsIsBounded() {
        let pool = BufferPool(idleBytesMax: 4096)
        var buffers: [AlignedBuffer]? = (0..<4).map { _ in pool.take(4096) }
        let addresses = Set(buffers!.map(\.base))
        buffers = nil
        let first = pool.take(1)
        #expect(addresses.contains(first.base))
        #expect(pool.take(9 << 20).capacityBytes == 9 << 20)
    }

    @Test func slicesOfSlicesAddTheirOffsets() {
        let slice = BufferSlice.holding([0, 1, 2, 3, 4, 5, 6, 7])
        #expect(slice.slice(2, 4).slice(1, 2).array == [3, 4])
    }
}

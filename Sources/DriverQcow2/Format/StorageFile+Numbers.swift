import BlockCore

extension StorageFile {
    /// `count` big-endian numbers that lie one after the other at `offset`.
    func readNumbers(_ count: Int, at offset: UInt64) throws(BlockError) -> [UInt64] {
        guard count > 0 else { return [] }
        let buffer = BufferPool.shared.take(count * 8).prefix(count * 8)
        try read(at: offset, into: buffer.bytes)
        let bytes = buffer.readOnlyBytes
        return (0..<count).map { bytes.bigEndian(at: $0 * 8) }
    }

    /// Writes `numbers` big-endian, one after the other; returns when they are durable if asked.
    func writeNumbers(
        _ numbers: [UInt64], at offset: UInt64, durably: Bool = false
    ) throws(BlockError) {
        guard !numbers.isEmpty else { return }
        let buffer = BufferPool.shared.take(numbers.count * 8).prefix(numbers.count * 8)
        let bytes = buffer.bytes
        for (index, number) in numbers.enumerated() { bytes.storeBigEndian(number, at: index * 8) }
        if durably {
            try writeDurably(at: offset, from: buffer.readOnlyBytes)
        } else {
            try write(at: offset, from: buffer.readOnlyBytes)
        }
    }
}

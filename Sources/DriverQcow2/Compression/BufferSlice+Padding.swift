import BlockCore

extension BufferSlice {
    /// The slice itself, or a copy with zeroes behind it where it is shorter than `count`.
    func padded(to count: Int) -> BufferSlice {
        if self.count == count { return self }
        let whole = BufferPool.shared.take(count).prefix(count)
        whole.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        whole.slice(0, self.count).bytes.copyMemory(from: readOnlyBytes)
        return whole
    }
}

package import BlockCore

extension BufferSlice {
    /// A new buffer with `bytes` in it, which must not be empty.
    package static func holding(_ bytes: [UInt8]) -> BufferSlice {
        let slice = BufferPool.shared.take(bytes.count).prefix(bytes.count)
        slice.bytes.copyBytes(from: bytes)
        return slice
    }

    /// A copy of the bytes.
    package var array: [UInt8] { Array(readOnlyBytes) }
}

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

extension BlockDevice {
    /// `count` bytes from `offset`, in one request.
    package func bytes(at offset: Int, _ count: Int) async throws(BlockError) -> [UInt8] {
        guard count > 0 else { return [] }
        // Not zeroes, so that bytes which the device leaves alone are noticed.
        let slice = BufferSlice.holding([UInt8](repeating: 0xBD, count: count))
        try await read(at: UInt64(offset), into: slice)
        return slice.array
    }

    /// Writes `bytes` at `offset`; first by the *now* face, if asked.
    package func put(
        _ bytes: [UInt8], at offset: Int, now: Bool = false
    ) async throws(BlockError) {
        guard !bytes.isEmpty else { return }
        let slice = BufferSlice.holding(bytes)
        if now, try tryWrite(at: UInt64(offset), from: slice.readOnlyBytes) { return }
        try await write(at: UInt64(offset), from: slice)
    }
}

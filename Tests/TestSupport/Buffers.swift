package import BlockCore
import Glibc

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

extension [UInt8] {
    /// The first index at which the two differ, both being equally long; nil if they do not.
    package func firstDifference(from other: [UInt8]) -> Int? {
        precondition(count == other.count)
        return withUnsafeBytes { mine in
            other.withUnsafeBytes { theirs in
                // In pieces, because a loop over bytes is slow without optimisation.
                for start in stride(from: 0, to: mine.count, by: 4096) {
                    let count = Swift.min(4096, mine.count - start)
                    if memcmp(mine.baseAddress! + start, theirs.baseAddress! + start, count) == 0 {
                        continue
                    }
                    return (start..<start + count).first { mine[$0] != theirs[$0] }
                }
                return nil
            }
        }
    }
}

import Glibc

extension UnsafeRawBufferPointer {
    /// Whether every byte is zero. Runs at memory speed.
    package var isAllZero: Bool {
        guard let base = baseAddress, count > 0 else { return true }
        let head = Swift.min(count, 16)
        for index in 0..<head where base.load(fromByteOffset: index, as: UInt8.self) != 0 {
            return false
        }
        // Each byte equals the one 16 before it, and the first 16 are zero.
        return count <= 16 || memcmp(base, base + 16, count - 16) == 0
    }
}

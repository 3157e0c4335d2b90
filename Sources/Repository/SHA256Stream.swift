import Crypto

/// A SHA-256 over bytes that arrive in pieces.
struct SHA256Stream {
    private var hash = SHA256()

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        hash.update(bufferPointer: bytes)
    }

    mutating func update(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { hash.update(bufferPointer: $0) }
    }

    /// The digest of what has come so far, as lower-case hexadecimal text.
    var text: String { Hexadecimal.text(hash.finalize()) }

    /// The digest of `bytes` at once.
    static func digest(of bytes: UnsafeRawBufferPointer) -> CellDigest {
        var hash = SHA256()
        hash.update(bufferPointer: bytes)
        return hash.finalize().withUnsafeBytes { CellDigest(loading: $0) }
    }
}

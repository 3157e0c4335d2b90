import BlockCore
import CXXHash

/// How the cells of a repository are digested; chosen when it is made.
package enum DigestAlgorithm: String, Codable, Sendable, CaseIterable {
    /// Fast and not cryptographic: finds damage, as storage engines do. The bytes are those of the
    /// canonical form, which `xxhsum -H128` prints.
    case xxh3 = "xxh3-128"
    /// Slow and cryptographic.
    case sha256 = "sha-256"

    /// The length of a digest.
    package var digestBytes: Int {
        switch self {
        case .xxh3: 16
        case .sha256: 32
        }
    }

    /// The digest of `cell`, which holds at least one byte.
    package func digest(of cell: UnsafeRawBufferPointer) -> CellDigest {
        switch self {
        case .xxh3:
            let hash = XXH3_128bits(cell.baseAddress, cell.count)
            return CellDigest(hash.high64.bigEndian, hash.low64.bigEndian)
        case .sha256:
            return SHA256Stream.digest(of: cell)
        }
    }
}

/// The digest of one cell: up to 32 bytes, the unused ones zero.
package struct CellDigest: Hashable, Sendable {
    /// Eight bytes each, as they lie in memory.
    private let word0, word1, word2, word3: UInt64

    /// What stands where there is no digest: all bytes zero.
    static let none = CellDigest(0, 0)

    init(_ word0: UInt64, _ word1: UInt64) {
        self.word0 = word0
        self.word1 = word1
        word2 = 0
        word3 = 0
    }

    /// Takes the digest from `bytes`, which are 16 or 32.
    init(loading bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count == 16 || bytes.count == 32)
        word0 = bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self)
        word1 = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        guard bytes.count == 32 else {
            word2 = 0
            word3 = 0
            return
        }
        word2 = bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
        word3 = bytes.loadUnaligned(fromByteOffset: 24, as: UInt64.self)
    }

    /// Puts the digest into `bytes`, which are 16 or 32.
    func store(into bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count == 16 || bytes.count == 32)
        bytes.storeBytes(of: word0, toByteOffset: 0, as: UInt64.self)
        bytes.storeBytes(of: word1, toByteOffset: 8, as: UInt64.self)
        guard bytes.count == 32 else { return }
        bytes.storeBytes(of: word2, toByteOffset: 16, as: UInt64.self)
        bytes.storeBytes(of: word3, toByteOffset: 24, as: UInt64.self)
    }
}

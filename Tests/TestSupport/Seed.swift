import Glibc

/// A small, fast generator whose sequence depends on the seed alone.
package struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// `count` random bytes.
    package mutating func bytes(_ count: Int) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: count)
        result.withUnsafeMutableBytes { bytes in
            var index = 0
            while index + 8 <= count {
                bytes.storeBytes(of: next(), toByteOffset: index, as: UInt64.self)
                index += 8
            }
            let last = next()
            for place in index..<count {
                bytes[place] = UInt8(truncatingIfNeeded: last >> UInt64(8 * (place - index)))
            }
        }
        return result
    }
}

/// The seed of the random tests of this run: TIDEMARK_SEED, or a new one, which is printed.
package enum Seed {
    package static let current: UInt64 = {
        let given = getenv("TIDEMARK_SEED").flatMap { UInt64(String(cString: $0)) }
        let seed = given ?? UInt64.random(in: 0 ... .max)
        print("random tests use TIDEMARK_SEED=\(seed)")
        return seed
    }()

    /// A generator of its own for the test of this name.
    package static func generator(_ name: String) -> SplitMix64 {
        var seed = current
        for byte in name.utf8 { seed = (seed ^ UInt64(byte)) &* 0x100_0000_01B3 }
        return SplitMix64(seed: seed)
    }
}

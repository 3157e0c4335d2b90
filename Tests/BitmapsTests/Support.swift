import BlockCore
import Foundation
import Synchronization

/// Random numbers that the seed alone decides (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

/// A generator for `test`, whose seed is printed and can be given in TIDEMARK_SEED.
func seededGenerator(for test: String = #function) -> SeededGenerator {
    let given = ProcessInfo.processInfo.environment["TIDEMARK_SEED"].flatMap { UInt64($0) }
    let seed = given ?? UInt64.random(in: 0 ... .max)
    print("\(test): TIDEMARK_SEED=\(seed)")
    return SeededGenerator(seed: seed)
}

/// Runs `body` on `count` threads at once and returns when all have ended.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) async {
    await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
        let running = Counter(count)
        for index in 0..<count {
            HostThread.start(name: "test-\(index)") {
                body(index)
                if running.decrement() == 0 { continuation.resume() }
            }
        }
    }
}

private final class Counter: Sendable {
    private let value: Atomic<Int>

    init(_ value: Int) { self.value = Atomic(value) }

    func decrement() -> Int { value.subtract(1, ordering: .acquiringAndReleasing).newValue }
}

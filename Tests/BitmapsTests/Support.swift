import BlockCore
import Foundation
import Synchronization

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

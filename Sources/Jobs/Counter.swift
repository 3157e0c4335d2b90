import Synchronization

/// A sum that several tasks add to.
final class Counter: Sendable {
    private let sum = Atomic<UInt64>(0)

    var value: UInt64 { sum.load(ordering: .relaxed) }

    func add(_ amount: UInt64) { sum.wrappingAdd(amount, ordering: .relaxed) }
}

import Synchronization

/// A sum that several tasks add to.
final class Counter: Sendable {
    private let sum = Atomic<UInt64>(0)

    var value: UInt64 { sum.load(ordering: .relaxed) }

    /// Makes the sum at least `value`; returns by how much it grew.
    func raise(to value: UInt64) -> UInt64 {
        let (previous, _) = sum.max(value, ordering: .relaxed)
        return value - min(previous, value)
    }

    func add(_ amount: UInt64) { sum.wrappingAdd(amount, ordering: .relaxed) }
}

import Synchronization

/// A fixed array of bits that many threads read and set without a lock.
///
/// `@unchecked Sendable` is true because the memory is only touched through atomic operations and
/// lives as long as the object.
final class AtomicWords: @unchecked Sendable {
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let count: Int

    init(count: Int) {
        self.count = max(count, 1)
        words = .allocate(capacity: self.count)
        for index in 0..<self.count { (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        words.deinitialize(count: count)
        words.deallocate()
    }

    func isSet(_ bit: Int) -> Bool {
        precondition(bit >= 0 && bit >> 6 < count)
        return words[bit >> 6].load(ordering: .acquiring) & (1 << UInt64(bit & 63)) != 0
    }

    /// Costs no more than a look where the bit is set already.
    func set(_ bit: Int) {
        guard !isSet(bit) else { return }
        words[bit >> 6].bitwiseOr(1 << UInt64(bit & 63), ordering: .releasing)
    }

    /// Returns whether the bit was set.
    @discardableResult
    func clear(_ bit: Int) -> Bool {
        guard isSet(bit) else { return false }
        let mask: UInt64 = 1 << UInt64(bit & 63)
        return words[bit >> 6].bitwiseAnd(~mask, ordering: .acquiringAndReleasing).oldValue
            & mask != 0
    }

    func clearAll() {
        for index in 0..<count { words[index].store(0, ordering: .releasing) }
    }
}

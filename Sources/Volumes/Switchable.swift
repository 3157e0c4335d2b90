import BlockCore
import Synchronization

// A value that many threads use at every moment, and that is now and then replaced by another
// without holding any of them up.
//
// There are two slots and a version, whose lowest bit says which slot is current. A user counts
// himself into the current slot and looks whether it is still current:
//
//   user       count in at the slot · is the version the same? else out and again · use · count out
//   replacer   value into the other slot · version + 1 · wait until the old slot counts nobody
//
// Either the user sees the new version, or the replacer sees the user. The count and the version
// are sequentially consistent for that: each writes one of them and then reads the other.
//
// A slot is written only after its last users were waited for, so there can be one replacement at
// a time, and the next only once the one before has drained.

/// A value that can be replaced while it is in use.
///
/// `@unchecked Sendable` is true because `even` and `odd` are written only while no user counts in
/// the slot, as the order above says, and the rest is atomic or locked.
final class Switchable<Value: Sendable>: @unchecked Sendable {
    /// Proof that the value does not go away; give it back with `end`.
    struct Use {
        let value: Value
        fileprivate let slot: Int
    }

    private let version = Atomic<Int>(0)
    private let evenCount = Atomic<Int>(0)
    private let oddCount = Atomic<Int>(0)
    private var even: Value?
    private var odd: Value?
    /// Whether somebody waits for the slot that is not current.
    private let isDraining = Atomic<Bool>(false)
    private let waiter = HostMutex<UnsafeContinuation<Void, Never>?>(nil)

    init(_ value: Value) { even = value }

    /// The current value, for who knows that it is not being replaced meanwhile.
    @inline(__always)
    var current: Value { value(inSlot: version.load(ordering: .acquiring) & 1) }

    /// Begins to use the current value. Never waits.
    @inline(__always)
    func begin() -> Use {
        while true {
            let version = version.load(ordering: .sequentiallyConsistent)
            let slot = version & 1
            if slot == 0 {
                evenCount.add(1, ordering: .sequentiallyConsistent)
            } else {
                oddCount.add(1, ordering: .sequentiallyConsistent)
            }
            if self.version.load(ordering: .sequentiallyConsistent) == version {
                return Use(value: value(inSlot: slot), slot: slot)
            }
            leave(slot)
        }
    }

    /// Ends a use.
    @inline(__always)
    func end(_ use: Use) { leave(use.slot) }

    /// Makes `value` the current one; who uses the old one goes on with that. `drain` must follow,
    /// and must have returned before the next replacement.
    func replace(with value: Value) {
        let version = version.load(ordering: .acquiring)
        if version & 1 == 0 { odd = value } else { even = value }
        self.version.store(version + 1, ordering: .sequentiallyConsistent)
    }

    /// Waits until nobody uses the old value any more, and lets go of it. One at a time.
    func drain() async {
        let slot = (version.load(ordering: .acquiring) + 1) & 1
        await withUnsafeContinuation { continuation in
            waiter.withLock { $0 = continuation }
            isDraining.store(true, ordering: .sequentiallyConsistent)
            wakeIfDrained(slot)
        }
        if slot == 0 { even = nil } else { odd = nil }
    }

    @inline(__always)
    private func value(inSlot slot: Int) -> Value {
        // The current slot always has a value.
        slot == 0 ? even.unsafelyUnwrapped : odd.unsafelyUnwrapped
    }

    private func count(inSlot slot: Int) -> Int {
        slot == 0
            ? evenCount.load(ordering: .sequentiallyConsistent)
            : oddCount.load(ordering: .sequentiallyConsistent)
    }

    @inline(__always)
    private func leave(_ slot: Int) {
        let left =
            slot == 0
            ? evenCount.subtract(1, ordering: .sequentiallyConsistent).newValue
            : oddCount.subtract(1, ordering: .sequentiallyConsistent).newValue
        if left == 0, isDraining.load(ordering: .sequentiallyConsistent) { wakeIfDrained(slot) }
    }

    private func wakeIfDrained(_ slot: Int) {
        guard slot != version.load(ordering: .acquiring) & 1, count(inSlot: slot) == 0 else {
            return
        }
        let continuation = waiter.withLock { waiter in
            defer { waiter = nil }
            return waiter
        }
        guard let continuation else { return }
        isDraining.store(false, ordering: .sequentiallyConsistent)
        continuation.resume()
    }
}

import Glibc

/// A `Mutex` for what many threads want at the same time.
///
/// The one of Synchronization hands itself to the longest waiter, who must be scheduled first, and
/// lets the others spin: with more threads than processors that was measured to be twenty times
/// slower. This one lets whoever runs take it.
///
/// `@unchecked Sendable` is true because `value` is touched only with `mutex` held.
package final class HostMutex<Value>: @unchecked Sendable {
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private var value: Value

    package init(_ value: sending Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Runs `body`, which should be short, with the value while no other thread does.
    @inline(__always)
    package func withLock<R, E: Error>(
        _ body: (inout Value) throws(E) -> R
    ) throws(E) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body(&value)
    }
}

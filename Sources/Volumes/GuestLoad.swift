import Synchronization

/// How many requests guests make, and how long those took that could not be answered at once. What a
/// job that gives way to guests goes by.
package final class GuestLoad: Sendable {
    /// What was noted since the volume was opened.
    package struct Total: Sendable {
        /// How many could be answered at once.
        package var promptCount = 0
        /// How many could not, and were answered later.
        package var requestCount = 0
        package var seconds = 0.0
        /// How many have not been answered yet.
        package var waitingCount = 0
    }

    private let noted = Mutex(Total())
    private let promptCount = Atomic<Int>(0)

    init() {}

    package var total: Total {
        var total = noted.withLock { $0 }
        total.promptCount = promptCount.load(ordering: .relaxed)
        return total
    }

    /// Notes so many requests that were answered at once.
    package func note(prompt count: Int) { promptCount.add(count, ordering: .relaxed) }

    /// Notes a request that has to wait; `end` follows.
    package func begin() { noted.withLock { $0.waitingCount += 1 } }

    /// Notes that one was answered, after so long.
    package func end(after duration: Duration) {
        let parts = duration.components
        noted.withLock { total in
            total.waitingCount -= 1
            total.requestCount += 1
            total.seconds += Double(parts.seconds) + Double(parts.attoseconds) / 1e18
        }
    }
}

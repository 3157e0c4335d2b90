import BlockCore
import Synchronization

// A client that takes no replies holds the memory of its requests for as long as it likes. So that
// a crowd of such clients can neither use up the host's memory nor stop the others, each
// connection has some memory of its own, and all share the rest: a connection waits for the shared
// part only while something of its own is in flight, whose end wakes it.

/// The memory that the connections of a server share; it counts against the agent's.
final class NBDSharedMemory: Sendable {
    private let leftBytes: Atomic<Int>
    private let budget: MemoryBudget

    init(bytes: Int, budget: MemoryBudget = .shared) {
        leftBytes = Atomic(bytes)
        self.budget = budget
    }

    /// Takes `bytes`; false if there are not so many.
    func tryTake(_ bytes: Int) -> Bool {
        if leftBytes.subtract(bytes, ordering: .relaxed).newValue >= 0,
            budget.tryTake(UInt64(bytes), for: .requests)
        {
            return true
        }
        leftBytes.add(bytes, ordering: .relaxed)
        return false
    }

    /// Gives `bytes` back.
    func give(_ bytes: Int) {
        guard bytes > 0 else { return }
        leftBytes.add(bytes, ordering: .relaxed)
        budget.give(UInt64(bytes), for: .requests)
    }
}

/// What one connection may have in flight: requests that were handed over and not answered yet,
/// and the bytes of memory that they hold.
///
/// The connection's thread takes credits and waits where there are none, which stops it from
/// reading its socket; whoever sends or drops the answer gives them back.
final class NBDCredits: Sendable {
    private struct InFlight {
        var requests = 0
        var bytes = 0
        /// How many of the bytes are from the shared memory.
        var sharedBytes = 0
    }

    private let inFlight = Monitor(InFlight())
    private let shared: NBDSharedMemory
    private let requestsMax: Int
    private let bytesMax: Int
    private let bytesOwn: Int

    init(_ limits: NBDLimits, _ shared: NBDSharedMemory) {
        self.shared = shared
        requestsMax = max(1, limits.requestsInFlightMax)
        bytesMax = max(1, limits.bytesInFlightMax)
        bytesOwn = limits.bytesInFlightOwn
    }

    /// Takes the credits of one request without waiting; false if there are not enough.
    func tryTake(bytes: Int) -> Bool {
        inFlight.withLock { take(&$0, bytes) }
    }

    /// Takes the credits of one request, waiting for them.
    func take(bytes: Int) {
        inFlight.wait { take(&$0, bytes) ? () : nil }
    }

    /// Gives the credits of `requests` requests back.
    func give(requests: Int, bytes: Int) {
        inFlight.update {
            $0.requests -= requests
            $0.bytes -= bytes
            let surplus = min($0.sharedBytes, max(0, $0.sharedBytes + bytesOwn - $0.bytes))
            $0.sharedBytes -= surplus
            shared.give(surplus)
        }
    }

    /// Waits until every request was answered or its answer dropped.
    func waitUntilIdle() {
        inFlight.wait { $0.requests == 0 ? () : nil }
    }

    // A request larger than the bounds passes alone rather than never.
    private func take(_ inFlight: inout InFlight, _ bytes: Int) -> Bool {
        guard inFlight.requests < requestsMax else { return false }
        if inFlight.requests > 0 {
            guard inFlight.bytes + bytes <= bytesMax else { return false }
            let wantedBytes = max(0, inFlight.bytes + bytes - bytesOwn - inFlight.sharedBytes)
            guard wantedBytes == 0 || shared.tryTake(wantedBytes) else { return false }
            inFlight.sharedBytes += wantedBytes
        }
        inFlight.requests += 1
        inFlight.bytes += bytes
        return true
    }
}

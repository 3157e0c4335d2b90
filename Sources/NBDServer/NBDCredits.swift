import BlockCore

/// What one connection may have in flight: requests that were handed over and not answered yet,
/// and the bytes of memory that they hold.
///
/// The connection's thread takes credits and waits where there are none, which stops it from
/// reading its socket; whoever sends or drops the answer gives them back.
final class NBDCredits: Sendable {
    private struct InFlight {
        var requests = 0
        var bytes = 0
    }

    private let inFlight = Monitor(InFlight())
    private let requestsMax: Int
    private let bytesMax: Int

    init(_ limits: NBDLimits) {
        requestsMax = max(1, limits.requestsInFlightMax)
        bytesMax = max(1, limits.bytesInFlightMax)
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
        }
    }

    /// Waits until every request was answered or its answer dropped.
    func waitUntilIdle() {
        inFlight.wait { $0.requests == 0 ? () : nil }
    }

    // A request larger than the bound passes alone rather than never.
    private func take(_ inFlight: inout InFlight, _ bytes: Int) -> Bool {
        guard inFlight.requests < requestsMax,
            inFlight.bytes + bytes <= bytesMax || inFlight.requests == 0
        else { return false }
        inFlight.requests += 1
        inFlight.bytes += bytes
        return true
    }
}

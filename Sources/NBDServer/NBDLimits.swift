/// The bounds that keep one client from using up the agent.
package struct NBDLimits: Sendable {
    /// How long a client may take to choose an export.
    package var handshakeSeconds = 10
    /// Connections beyond this many are closed at once.
    package var connectionsMax = 100
    /// Requests of one connection that were handed over and not answered yet.
    package var requestsInFlightMax = 256
    /// The memory that those requests may hold.
    package var bytesInFlightMax = 64 << 20
    /// How long requests in flight may take to finish when a connection is ended from this side.
    package var drainSeconds = 10

    package init() {}
}

/// The bounds that keep one client, or many, from using up the agent.
package struct NBDLimits: Sendable {
    /// How long a client may take to choose an export.
    package var handshakeSeconds = 10
    /// Clients that are choosing an export. One more takes the place of another (`NBDPlaces`).
    package var handshakesMax = 256
    /// Options that a client may send before it chooses an export.
    package var optionsMax = 4096
    /// Clients that have chosen an export. Beyond this many they are told to come back later.
    package var connectionsMax = 100
    /// Requests of one connection that were handed over and not answered yet.
    package var requestsInFlightMax = 256
    /// The memory that those requests may hold.
    package var bytesInFlightMax = 64 << 20
    /// The part of it that a connection has whatever the others do.
    package var bytesInFlightOwn = 4 << 20
    /// The memory that the requests of all connections may hold beyond what each has for itself.
    package var bytesInFlightSharedMax = 512 << 20
    /// How long requests in flight may take to finish when a connection is ended from this side.
    package var drainSeconds = 10

    package init() {}
}

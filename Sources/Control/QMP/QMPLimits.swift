/// What one client may make the server hold.
package struct QMPLimits: Sendable {
    /// The longest request.
    package var requestBytesMax = 4 << 20
    /// The deepest nesting of a request.
    package var depthMax = 64
    /// How much may wait to be read by a client before its connection is dropped.
    package var outboxBytesMax = 8 << 20
    /// How many clients there may be at once.
    package var connectionsMax = 64

    package init() {}
}

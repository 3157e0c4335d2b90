/// How patient a client is, and how many connections it makes.
package struct NBDOptions: Sendable {
    /// Connections where the server says that several are one (multi-conn).
    package var connectionsMax = 4
    /// How long one attempt to connect may take.
    package var connectLimit = Duration.seconds(10)
    /// How often, and for how long in all, a lost server is looked for again.
    package var reconnectAttemptsMax = 20
    package var reconnectLimit = Duration.seconds(30)
    /// How long a server may leave requests without any answer.
    package var stallLimit = Duration.seconds(60)

    package init() {}
}

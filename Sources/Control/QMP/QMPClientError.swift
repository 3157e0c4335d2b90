/// Why there is no conversation with an agent; what the agent itself refuses is `ControlError`.
package enum QMPClientError: Error, Sendable, Equatable {
    /// Nobody listens on the socket at `path`.
    case noAgent(path: String)
    /// The socket could not be connected to, for another reason.
    case unreachable(path: String, reason: String)
    /// The agent closed the connection.
    case closed(path: String)
    /// What came is not what the protocol allows.
    case protocolViolation(path: String, reason: String)
    /// More events came than the reader of the event stream took.
    case eventsLost
}

extension QMPClientError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .noAgent(let path): "no agent answers on \(path)"
        case .unreachable(let path, let reason): "cannot connect to \(path): \(reason)"
        case .closed(let path): "the agent on \(path) closed the connection"
        case .protocolViolation(let path, let reason):
            "what answers on \(path) is no agent: \(reason)"
        case .eventsLost: "events came faster than they were read, and some were dropped"
        }
    }
}

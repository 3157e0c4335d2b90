import BlockCore

/// The error numbers of the protocol: fixed values, whatever the host's `errno` are.
enum NBDErrorCode: UInt32 {
    case notPermitted = 1
    case inputOutput = 5
    case invalid = 22
    case noSpace = 28
    case overflow = 75
    case unsupported = 95
    case shuttingDown = 108
}

extension NBDErrorCode {
    /// The one table from the agent's errors to the protocol's.
    init(_ kind: BlockError.Kind) {
        self =
            switch kind {
            case .noSpace: .noSpace
            case .readOnly: .notPermitted
            // Not the protocol's `unsupported`: that has a meaning of its own for fast zeroes.
            case .invalid, .outOfRange, .unsupported: .invalid
            case .cancelled: .shuttingDown
            case .io, .corrupt, .busy, .notFound, .timedOut: .inputOutput
            }
    }
}

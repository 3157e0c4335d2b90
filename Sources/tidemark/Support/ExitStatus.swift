import BlockCore
import Control

/// The exit codes of every command: the one table that turns failures into numbers.
enum ExitStatus: Int32, Sendable, CaseIterable {
    case done = 0
    case failed = 1
    /// Some of what was asked for was done, the rest failed.
    case partlyDone = 3
    case noSuchRepository = 10
    case locked = 11
    case usage = 64
    case interrupted = 130

    /// The code for an error that ends a command.
    init(_ error: any Error) {
        switch error {
        case let failure as CommandFailure: self = failure.status
        case let error as ControlError: self.init(error.reason)
        case let error as BlockError where error.kind == .busy: self = .locked
        case is CancellationError: self = .interrupted
        default: self = .failed
        }
    }

    /// The code for what the agent gave as the reason of a failure.
    init(_ reason: ControlErrorReason?) {
        switch reason {
        case .noSuchRepository: self = .noSuchRepository
        case .locked: self = .locked
        case nil: self = .failed
        }
    }
}

/// A failure found by the command itself: what failed, on what, what to do next.
struct CommandFailure: Error, CustomStringConvertible {
    var status: ExitStatus
    var description: String

    init(_ status: ExitStatus = .failed, _ description: String) {
        self.status = status
        self.description = description
    }
}

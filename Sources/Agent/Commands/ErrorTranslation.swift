import BlockCore
import Control
import Jobs

extension ControlError {
    /// The data plane's failures in the control socket's terms: one of its three translations,
    /// beside NBD's error numbers and the command line's exit codes.
    init(block error: BlockError) {
        let reason: ControlErrorReason? =
            switch (error.kind, error.operation) {
            case (.notFound, "find the repository"), (.notFound, "open the repository"):
                .noSuchRepository
            case (.busy, "lock"): .locked
            default: nil
            }
        switch (error.kind, error.operation) {
        case (.notFound, "find the volume"):
            self = .noSuchNode(error.place)
        case (.invalid, "start a job"), (.notFound, "find the bitmap"), (.invalid, "add a bitmap"),
            (.busy, "use the image"),
            (_, "add a node"), (_, "remove the node"), (_, "find the node"),
            (_, "find the throttle group"), (_, "add an object"), (_, "remove an object"),
            (.invalid, "throttle"):
            // Programs match on QEMU's texts.
            self.init(.generic, error.detail ?? error.description)
        default:
            self.init(.generic, error.description, reason: reason)
        }
    }
}

extension CommandTable {
    /// `register` for a handler whose block errors are translated.
    mutating func on<Command: ControlCommand>(
        _ command: Command.Type,
        _ handler: @escaping @Sendable (Command.Arguments) async throws -> Command.Result
    ) {
        register(command) { arguments in
            do {
                return try await handler(arguments)
            } catch let error as BlockError {
                throw ControlError(block: error)
            } catch let refusal as JobRefusal {
                throw ControlError.generic(refusal.description)
            }
        }
    }
}

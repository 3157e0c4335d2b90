import Control
import Foundation

/// Where a command prints: results on standard output, everything else on standard error.
struct Console: Sendable {
    /// Whether standard output carries one JSON document instead of text.
    var isJSON = false
    var isQuiet = false
    var isVerbose = false

    /// Whether somebody looks at standard error.
    var showsProgress: Bool { !isQuiet && isatty(STDERR_FILENO) == 1 }

    /// Prints the result of a command: `value` as JSON, or `text` for people.
    func result(_ value: some Encodable, _ text: () -> String) throws {
        if isJSON {
            Self.writeToStandardOutput(try JSONValue(encoding: value).prettyText + "\n")
        } else {
            let text = text()
            if !text.isEmpty { Self.writeToStandardOutput(text + "\n") }
        }
    }

    /// Says that a command which returns nothing has done its work.
    func done(_ message: String) {
        if isJSON {
            Self.writeToStandardOutput("{}\n")
        } else if !isQuiet {
            Self.writeToStandardOutput(message + "\n")
        }
    }

    /// Tells something that is neither result nor error.
    func note(_ message: String) {
        if !isQuiet { Self.writeToStandardError("tidemark: \(message)\n") }
    }

    /// Tells something that only `-v` asks for.
    func detail(_ message: @autoclosure () -> String) {
        if isVerbose { Self.writeToStandardError("tidemark: \(message())\n") }
    }

    /// Tells of something that went wrong without ending the command.
    func warn(_ message: String) { Self.writeToStandardError("tidemark: \(message)\n") }

    /// Reports the error that ended a command, and returns its exit code. The JSON document is
    /// then the error, unless the command has printed its result already.
    func report(_ error: any Error) -> ExitStatus {
        let status = ExitStatus(error)
        let message = error is CancellationError ? "interrupted" : "\(error)"
        if let outcome = error as? PrintedFailure {
            Self.writeToStandardError("tidemark: \(outcome.description)\n")
            return outcome.status
        }
        Self.writeToStandardError("tidemark: \(message)\n")
        if isJSON {
            let control = error as? ControlError
            var body: [String: JSONValue] = [
                "class": .string((control?.errorClass ?? .generic).rawValue),
                "desc": .string(message), "exit-code": .int(Int64(status.rawValue)),
            ]
            body["reason"] = control?.reason.map { .string($0.rawValue) }
            let document: JSONValue = ["error": .object(body)]
            Self.writeToStandardOutput(document.prettyText + "\n")
        }
        return status
    }

    /// Writes text as it is; a reader that went away is no error.
    static func writeToStandardOutput(_ text: String) {
        try? FileHandle.standardOutput.write(contentsOf: Data(text.utf8))
    }

    /// Writes text as it is; a reader that went away is no error.
    static func writeToStandardError(_ text: String) {
        try? FileHandle.standardError.write(contentsOf: Data(text.utf8))
    }
}

/// A failure of a command that has printed its result: the JSON document is out already.
struct PrintedFailure: Error, CustomStringConvertible {
    var status: ExitStatus
    var description: String

    init(_ status: ExitStatus, _ description: String) {
        self.status = status
        self.description = description
    }
}

import ArgumentParser
import Control
import Foundation

/// `tidemark qmp`: the protocol itself, for scripts.
struct QMPCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "qmp",
        abstract: "Execute any command of the control socket.",
        discussion: """
            Prints what the agent returns, as JSON. The arguments are a JSON object; - reads it \
            from standard input. `tidemark qmp query-commands` lists what there is.

            Example:
              tidemark qmp query-dirty-bitmaps '{"node": "vm1"}'
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the command.")
    var command: String

    @Argument(help: ArgumentHelp("Its arguments, a JSON object.", valueName: "json"))
    var arguments: String?

    func run(_ agent: AgentSession) async throws {
        let result = try await agent.client.execute(command, arguments: try parsedArguments())
        Console.writeToStandardOutput(result.prettyText + "\n")
    }

    private func parsedArguments() throws -> JSONValue {
        guard let arguments else { return [:] }
        let text =
            arguments == "-"
            ? FileHandle.standardInput.readDataToEndOfFile() : Data(arguments.utf8)
        do {
            let value = try JSONParser.parse([UInt8](text))
            guard value.objectValue != nil else {
                throw CommandFailure(.usage, "the arguments must be a JSON object")
            }
            return value
        } catch let error as JSONSyntaxError {
            throw CommandFailure(
                .usage, "the arguments are not JSON: \(error.message) (at byte \(error.offset))")
        }
    }
}

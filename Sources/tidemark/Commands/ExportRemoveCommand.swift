import ArgumentParser
import Control

/// `tidemark export remove`: takes an export away.
struct ExportRemoveCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Take an export away.",
        discussion: """
            An export that clients use stays unless --hard is given: then they lose their disk.

            Example:
              tidemark export remove vm1-backup
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the export.")
    var name: String

    @Flag(help: "Cut off the clients that use it.")
    var hard = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockExportDelete.self, .init(id: name, mode: hard ? .hard : .safe))
        agent.console.done("\(name): removed")
    }
}

import ArgumentParser
import Control

/// `tidemark node remove`: closes a node.
struct NodeRemoveCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Close a node that nothing uses.",
        discussion: """
            Its file stays.

            Example:
              tidemark node remove spare
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The node.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(BlockdevDelete.self, .init(nodeName: name))
        agent.console.done("\(name): removed")
    }
}

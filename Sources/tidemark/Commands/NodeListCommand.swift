import ArgumentParser
import Control

/// `tidemark node list`: the block graph, as a table.
struct NodeListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List volumes and nodes.",
        discussion: """
            Example:
              tidemark node list
            """)

    @OptionGroup var global: GlobalOptions

    func run(_ agent: AgentSession) async throws {
        let nodes = try await agent.execute(QueryNamedBlockNodes.self, .init(flat: true))
        try agent.console.result(nodes) {
            var table = TextTable([
                .text("NAME"), .text("DRIVER"), .number("SIZE"), .text("MODE"), .text("STANDS ON"),
            ])
            for node in nodes {
                table.append([
                    node.nodeName, node.drv, ByteSize.text(node.image.virtualSize),
                    node.ro ? "read-only" : "read-write", node.file,
                ])
            }
            return table.text
        }
    }
}

import ArgumentParser
import Control

/// `tidemark bitmap list`: the bitmaps of one volume as a table.
struct BitmapListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the dirty bitmaps of a volume.",
        discussion: """
            Example:
              tidemark bitmap list vm1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    func run(_ agent: AgentSession) async throws {
        let bitmaps = try await agent.execute(QueryDirtyBitmaps.self, .init(node: volume))
        try agent.console.result(bitmaps) { BitmapText.table(bitmaps) }
    }
}

import ArgumentParser
import Control

/// `tidemark bitmap clear`: makes a bitmap all clean.
struct BitmapClearCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "clear",
        abstract: "Mark everything clean in a dirty bitmap.",
        discussion: """
            Example:
              tidemark bitmap clear vm1 daily
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the bitmap.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapClear.self, BitmapReference(node: volume, name: name))
        agent.console.done("\(volume): bitmap \(name) cleared")
    }
}

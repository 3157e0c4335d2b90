import ArgumentParser
import Control

/// `tidemark bitmap remove`: deletes a bitmap.
struct BitmapRemoveCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Delete a dirty bitmap.",
        discussion: """
            Example:
              tidemark bitmap remove vm1 daily
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the bitmap.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapRemove.self, BitmapReference(node: volume, name: name))
        agent.console.done("\(volume): bitmap \(name) removed")
    }
}

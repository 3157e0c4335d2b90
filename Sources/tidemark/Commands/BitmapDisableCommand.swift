import ArgumentParser
import Control

/// `tidemark bitmap disable`: stops a bitmap.
struct BitmapDisableCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "disable",
        abstract: "Stop a dirty bitmap from recording.",
        discussion: """
            Example:
              tidemark bitmap disable vm1 daily
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the bitmap.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapDisable.self, BitmapReference(node: volume, name: name))
        agent.console.done("\(volume): bitmap \(name) disabled")
    }
}

import ArgumentParser
import Control

/// `tidemark bitmap enable`: makes a bitmap record.
struct BitmapEnableCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "enable",
        abstract: "Let a dirty bitmap record writes.",
        discussion: """
            Example:
              tidemark bitmap enable vm1 daily
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the bitmap.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapEnable.self, BitmapReference(node: volume, name: name))
        agent.console.done("\(volume): bitmap \(name) enabled")
    }
}

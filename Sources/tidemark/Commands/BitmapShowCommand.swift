import ArgumentParser
import Control

/// `tidemark bitmap show`: everything about one bitmap.
struct BitmapShowCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one dirty bitmap.",
        discussion: """
            Example:
              tidemark bitmap show vm1 daily --json | jq .count
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the bitmap.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        let bitmaps = try await agent.execute(
            QueryDirtyBitmaps.self, .init(node: volume, name: name))
        guard let bitmap = bitmaps.first(where: { $0.name == name }) else {
            throw CommandFailure(
                .failed,
                "\(volume) has no bitmap '\(name)': `tidemark bitmap list \(volume)` shows them")
        }
        try agent.console.result(bitmap) { BitmapText.table([bitmap]) }
    }
}

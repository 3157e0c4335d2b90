import ArgumentParser
import Control

/// `tidemark volume show`: everything about one volume.
struct VolumeShowCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one volume with its chain and bitmaps.",
        discussion: """
            Example:
              tidemark volume show vm1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        let volume = try await agent.volume(name)
        try agent.console.result(volume) { VolumeText.text(volume) }
    }
}

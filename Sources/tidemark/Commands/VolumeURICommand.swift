import ArgumentParser
import Control

/// `tidemark volume uri`: where NBD clients find a volume.
struct VolumeURICommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "uri",
        abstract: "Print the NBD URI of a volume.",
        discussion: """
            Example:
              qemu-img info "$(tidemark volume uri vm1)"
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        let volume = try await agent.volume(name)
        try agent.console.result(["uri": volume.uri]) { volume.uri }
    }
}

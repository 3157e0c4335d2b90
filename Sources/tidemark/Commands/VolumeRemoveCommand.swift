import ArgumentParser
import Control

/// `tidemark volume remove`: forgets a volume.
struct VolumeRemoveCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Forget a volume.",
        discussion: """
            Its image stays unless --delete-files is given; its restore points stay in any case.

            Example:
              tidemark volume remove vm1 --delete-files
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    @Flag(help: "Delete the image too.")
    var deleteFiles = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            VolumeRemove.self, .init(name: name, deleteFiles: deleteFiles))
        agent.console.done("\(name): removed")
    }
}

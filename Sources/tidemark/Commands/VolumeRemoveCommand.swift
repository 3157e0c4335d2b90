import ArgumentParser
import Control

/// `tidemark volume remove`: forgets a volume.
struct VolumeRemoveCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "remove",
        abstract: "Forget a volume.",
        discussion: """
            Its image stays unless --delete-files is given; its restore points stay in any case. \
            With --store-bitmaps QEMU finds the volume's dirty bitmaps in the image, and goes on \
            with them.

            Examples:
              tidemark volume remove vm1 --delete-files
              tidemark volume remove vm2 --store-bitmaps
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    @Flag(help: "Delete the image too.")
    var deleteFiles = false

    @Flag(help: "Store the dirty bitmaps in the image, a qcow2.")
    var storeBitmaps = false

    func validate() throws {
        guard !(deleteFiles && storeBitmaps) else {
            throw ValidationError("Bitmaps cannot be stored in an image that is deleted.")
        }
    }

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            VolumeRemove.self,
            .init(name: name, deleteFiles: deleteFiles, storeBitmaps: storeBitmaps ? true : nil))
        agent.console.done("\(name): removed")
    }
}

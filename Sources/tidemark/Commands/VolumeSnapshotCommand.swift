import ArgumentParser
import Control

/// `tidemark volume snapshot`: puts an overlay over a volume's images.
struct VolumeSnapshotCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "snapshot",
        abstract: "Put an overlay over the images of a volume.",
        discussion: """
            From then on the volume writes to the overlay, and its images so far stay as they are. \
            Guests and backups notice nothing, and bitmaps go on.

            Example:
              tidemark volume snapshot vm1 /images/vm1-monday.qcow2
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    @Argument(help: "The overlay, a qcow2 file that is made.")
    var file: String

    @Flag(help: "Use a file that is there and names the volume's image as its backing file.")
    var existing = false

    @Flag(help: "Name the backing file by a relative path.")
    var relativePaths = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockdevSnapshotSync.self,
            .init(
                device: name, snapshotFile: HostPath.absolute(file),
                mode: existing ? .existing : relativePaths ? .relativePaths : .absolutePaths))
        let volume = try await agent.volume(name)
        try agent.console.result(volume) { VolumeText.chain(volume).joined(separator: "\n") }
    }
}

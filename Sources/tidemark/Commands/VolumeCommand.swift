import ArgumentParser

/// `tidemark volume`: the commands on one noun.
struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume",
        abstract: "Create, import, show and remove volumes.",
        discussion: """
            Example:
              tidemark volume create vm1 --size 20G
            """,
        subcommands: [
            VolumeCreateCommand.self, VolumeImportCommand.self, VolumeListCommand.self,
            VolumeShowCommand.self, VolumeURICommand.self, VolumeResizeCommand.self,
            VolumeSnapshotCommand.self, VolumeSetCommand.self, VolumeRemoveCommand.self,
        ])
}

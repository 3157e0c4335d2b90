import ArgumentParser
import Control

/// `tidemark backup`: makes restore points.
struct BackupCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup",
        abstract: "Back volumes up to a repository.",
        discussion: """
            All volumes are backed up as they are at one instant. The level \"auto\" makes an \
            incremental point where the volume's bitmap continues one in the repository, else a \
            full one, and says why. Ctrl-C cancels the backup; nothing is lost by that.

            Examples:
              tidemark backup vm1 vm1-data --repo main
              tidemark backup vm1 --repo main --level full --limit 200M
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The volumes.")
    var volumes: [String]

    @Option(help: ArgumentHelp("The repository.", valueName: "name"))
    var repo: String

    @Option(help: "What kind of point to make.")
    var level = BackupLevel.auto

    @Option(help: ArgumentHelp("The bitmap that says what changed.", valueName: "name"))
    var bitmap: String?

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    func run(_ agent: AgentSession) async throws {
        try await agent.runJob(
            VolumeBackup.self,
            .init(
                volumes: volumes, repository: repo, level: level, bitmap: bitmap,
                speed: limit?.bytes, autoDismiss: false))
    }
}

import ArgumentParser
import Control

/// `tidemark backup`: makes restore points.
struct BackupCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup",
        abstract: "Back volumes up to a repository.",
        discussion: """
            All volumes are backed up as they are at one instant, and several of them are a group. \
            The level \"auto\" makes an incremental point where the volume's bitmap continues one \
            in the repository. Where the bitmap cannot be trusted it reads the volume and stores \
            what differs from the newest whole point; where there is none, everything. It says \
            why. A differential point stands on the last full one. Ctrl-C cancels the backup; \
            nothing is lost by that.

            Examples:
              tidemark backup vm1 vm1-data --repo main
              tidemark backup vm1 --repo main --level full --limit 200M --compress zstd
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

    @Option(help: "How to compress the point; without it, not at all.")
    var compress: BackupCompression?

    @Flag(help: "Begin even if the repository seems to have too little room.")
    var noSpaceCheck = false

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    func run(_ agent: AgentSession) async throws {
        try await agent.runJob(
            VolumeBackup.self,
            .init(
                volumes: volumes, repository: repo, level: level, bitmap: bitmap,
                compress: compress, speed: limit?.bytes, checkSpace: noSpaceCheck ? false : nil,
                autoDismiss: false))
    }
}

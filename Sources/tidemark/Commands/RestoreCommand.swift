import ArgumentParser
import Control

/// `tidemark restore`: writes a restore point to an image.
struct RestoreCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Restore a point to a file, or as a new volume.",
        discussion: """
            DEST is a file that does not exist yet. POINT is named as in `tidemark show`.

            Examples:
              tidemark restore vm1@latest /images/vm1.qcow2
              tidemark restore vm1@2026-11-21T03:00 --as-volume vm1-before
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The restore point.")
    var point: String

    @Argument(help: "The file to write.", completion: .file())
    var dest: String?

    @Option(help: "The format to write; qcow2 unless told.")
    var format: ImageFormat?

    @Option(help: ArgumentHelp("Make a volume of this name.", valueName: "name"))
    var asVolume: String?

    func run(_ agent: AgentSession) async throws {
        try await agent.runJob(
            PointRestore.self,
            .init(
                point: point, target: dest.map { HostPath.absolute($0) }, format: format,
                asVolume: asVolume, autoDismiss: false))
    }

    func validate() throws {
        if (dest == nil) == (asVolume == nil) {
            throw ValidationError("name either a file to write or, with --as-volume, a volume")
        }
    }
}

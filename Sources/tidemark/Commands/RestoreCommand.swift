import ArgumentParser
import Control

/// `tidemark restore`: writes a restore point to an image, an export or a new volume.
struct RestoreCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore",
        abstract: "Restore a point to a file or an NBD export, or as a new volume.",
        discussion: """
            DEST is a file that does not exist yet, or the URI of an NBD export, which is \
            overwritten. POINT is named as in `tidemark show`. After an interruption the same \
            command goes on where it was.

            A new volume continues the point: its next backup is an increment. With --instant it \
            is served at once, over the point, which is copied behind it.

            With --salvage a damaged chain, or one with a gap, is restored as far as it can be; \
            what is not certain to be right is listed, and the exit code is 3.

            Examples:
              tidemark restore vm1@latest /images/vm1.qcow2
              tidemark restore vm1@latest 'nbd+unix:///disk?socket=/run/nbd.sock'
              tidemark restore vm1@2026-11-21T03:00 --as-volume vm1-before
              tidemark restore vm1@latest --as-volume vm1-now --instant
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The restore point.")
    var point: String

    @Argument(help: "The file or export to write.", completion: .file())
    var dest: String?

    @Option(help: "The format to write; qcow2 unless told.")
    var format: ImageFormat?

    @Option(help: ArgumentHelp("Make a volume of this name.", valueName: "name"))
    var asVolume: String?

    @Flag(help: "Serve the volume at once, and copy the point behind it.")
    var instant = false

    @Flag(help: "Restore what is left of a damaged chain, and list what is lost.")
    var salvage = false

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    func run(_ agent: AgentSession) async throws {
        let arguments = PointRestore.Arguments(
            point: point, target: dest.map { HostPath.absolute($0) }, format: format,
            asVolume: asVolume, instant: instant ? true : nil, salvage: salvage ? true : nil,
            speed: limit?.bytes, autoDismiss: instant)
        guard let asVolume, instant else {
            return try await agent.runJob(PointRestore.self, arguments)
        }
        let job = try await agent.execute(PointRestore.self, arguments).jobID
        let volume = try await agent.volume(asVolume)
        try agent.console.result(volume) {
            "\(volume.uri)\njob \(job) copies the point behind it"
        }
    }

    func validate() throws {
        if (dest == nil) == (asVolume == nil) {
            throw ValidationError(
                "name either a file or export to write or, with --as-volume, a volume")
        }
        if instant && (asVolume == nil || salvage || format == .raw) {
            throw ValidationError(
                "--instant is for --as-volume, with format qcow2 and without --salvage")
        }
        if format != nil, dest?.hasPrefix("nbd") == true, dest?.contains("://") == true {
            throw ValidationError("an export has no --format: its server decides that")
        }
    }
}

import ArgumentParser
import Control

/// `tidemark volume create`: makes a volume and its image.
struct VolumeCreateCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Create a volume with a new image.",
        discussion: """
            The image is a file in the state directory unless --path names another. With --backing \
            or --from-point it reads what that holds until it is written to.

            Examples:
              tidemark volume create vm1 --size 20G
              tidemark volume create test --from-point vm1@latest
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the new volume.")
    var name: String

    @Option(help: .size("The size; without it that of the backing is taken."))
    var size: ByteSize?

    @Option(help: "The format of the image.")
    var format = ImageFormat.qcow2

    @Option(help: "The file to create.", completion: .file())
    var path: String?

    @Option(help: "The file behind the new image.", completion: .file())
    var backing: String?

    @Option(help: "The restore point behind the new image.")
    var fromPoint: String?

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            VolumeCreate.self,
            .init(
                name: name, size: size?.bytes, format: format,
                path: path.map { HostPath.absolute($0) },
                backing: backing.map { HostPath.absolute($0) }, fromPoint: fromPoint))
        let volume = try await agent.volume(name)
        try agent.console.result(volume) {
            "\(name): \(ByteSize.text(volume.size)), \(volume.uri)"
        }
    }

    func validate() throws {
        if backing != nil && fromPoint != nil {
            throw ValidationError("--backing and --from-point exclude each other")
        }
        if size == nil && backing == nil && fromPoint == nil {
            throw ValidationError("say how large the volume is to be: --size")
        }
    }
}

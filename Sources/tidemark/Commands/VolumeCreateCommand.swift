import ArgumentParser
import Control

/// `tidemark volume create`: makes a volume and its image.
struct VolumeCreateCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Create a volume with a new image.",
        discussion: """
            The image is a file in the state directory unless --path names another. With --backing \
            it reads what that file holds until it is written to; the file must not change any \
            more. What it names in turn must be in its own folder, or --allow-outside be said.

            Examples:
              tidemark volume create vm1 --size 20G
              tidemark volume create test --backing golden.qcow2 --backing-format qcow2
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

    @Option(help: "The format of the file behind it; never guessed.")
    var backingFormat: ImageFormat?

    @Flag(help: "Let the file behind it name files outside of its own folder.")
    var allowOutside = false

    @Flag(help: "Bypass the host's page cache; for raw images.")
    var direct = false

    @Option(help: "What its bitmaps survive: a power loss, or only the end of the agent.")
    var durability = VolumeDurability.power

    @Option(help: "What to do about what only the files behind the image hold.")
    var backingMode: VolumeBackingMode?

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            VolumeCreate.self,
            .init(
                name: name, size: size?.bytes, format: format,
                path: path.map { HostPath.absolute($0) },
                backing: backing.map { HostPath.absolute($0) }, backingFormat: backingFormat,
                allowOutside: allowOutside, direct: direct, durability: durability,
                backingMode: backingMode))
        let volume = try await agent.volume(name)
        try agent.console.result(volume) {
            "\(name): \(ByteSize.text(volume.size)), \(volume.uri)"
        }
    }

    func validate() throws {
        if (backing == nil) != (backingFormat == nil) {
            throw ValidationError("--backing and --backing-format go together")
        }
        if size == nil && backing == nil {
            throw ValidationError("say how large the volume is to be: --size")
        }
    }
}

import ArgumentParser
import Control

/// `tidemark volume import`: makes a volume of an image that exists.
struct VolumeImportCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Make a volume of an existing image.",
        discussion: """
            The image is used where it is; from then on only the agent may write to it. Without \
            --format its format is guessed from its first bytes, once. A guest can have written \
            those, so say the format of an image that a guest has had. An image may name others: \
            its backing files, a file for its data. Those outside of its own folder are refused \
            unless --allow-outside says that they belong to it; the whole chain is shown. Dirty \
            bitmaps that QEMU keeps in the image come along.

            Examples:
              tidemark volume import vm2 /images/vm2.qcow2
              tidemark volume import vm3 'nbd+unix:///disk?socket=/run/server.sock'
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the new volume.")
    var name: String

    @Argument(help: "The image: a file, or the URI of an NBD export.", completion: .file())
    var file: String

    @Option(help: "The format of the image.")
    var format: ImageFormat?

    @Flag(help: "Let the image name files outside of its own folder.")
    var allowOutside = false

    @Flag(help: "Bypass the host's page cache; for raw images.")
    var direct = false

    @Option(help: "What its bitmaps survive: a power loss, or only the end of the agent.")
    var durability = VolumeDurability.power

    @Option(help: "What to do about what only the files behind the image hold.")
    var backingMode: VolumeBackingMode?

    func run(_ agent: AgentSession) async throws {
        let imported = try await agent.execute(
            VolumeImport.self,
            .init(
                name: name, file: HostPath.absolute(file), format: format,
                allowOutside: allowOutside, direct: direct, durability: durability,
                backingMode: backingMode))
        if let warning = imported.warning { agent.console.warn(warning) }
        let volume = try await agent.volume(name)
        try agent.console.result(volume) {
            let first = "\(name): \(volume.format), \(ByteSize.text(volume.size)), \(volume.uri)"
            return ([first] + VolumeText.chain(volume)).joined(separator: "\n")
        }
    }
}

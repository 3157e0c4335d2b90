import ArgumentParser
import Control

/// `tidemark volume resize`: makes a volume longer or shorter.
struct VolumeResizeCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize",
        abstract: "Make a volume longer or shorter.",
        discussion: """
            What is new reads as zeroes. Clients see the new size when they connect again. A volume \
            is made shorter only with --shrink and without clients; what is cut off is lost.

            Example:
              tidemark volume resize vm1 40G
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    @Argument(help: .size("The new size."))
    var size: ByteSize

    @Flag(help: "Let what lies behind the new end be lost.")
    var shrink = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockResize.self, .init(nodeName: name, size: size.bytes, shrink: shrink))
        let volume = try await agent.volume(name)
        try agent.console.result(volume) { "\(name): \(ByteSize.text(volume.size))" }
    }
}

import ArgumentParser
import Control

/// `tidemark stream`: makes a volume depend on no other image, or on fewer.
struct StreamCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "stream",
        abstract: "Copy what a volume lacks of the images below its own, and need them no more.",
        discussion: """
            Guests go on meanwhile: unless --priority normal is given, the copying takes only what \
            they leave of the disk. With --base that image, and what is below it, stays. A volume \
            that is served over a restore point is made independent of it; `tidemark restore \
            --instant` starts that by itself, and so does the agent when it starts. Ctrl-C cancels \
            the job; the volume stays as usable as it was, over the same images.

            Example:
              tidemark stream vm1-now
              tidemark stream vm1 --base /images/template.qcow2
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The volume.")
    var volume: String

    @Option(help: "The file of the volume's chain that stays its backing.")
    var base: String?

    @Option(help: "What the volume's image is to call that file. (default: its path)")
    var backingFile: String?

    @Option(help: "idle, or normal: take what it can from guests.")
    var priority: JobPriority?

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    func run(_ agent: AgentSession) async throws {
        var arguments = BlockStream.Arguments(device: volume)
        arguments.base = base.map { HostPath.absolute($0) }
        arguments.backingFile = backingFile
        arguments.priority = priority
        arguments.speed = limit.map { Int64(clamping: $0.bytes) }
        arguments.autoDismiss = false
        try await agent.runJob(BlockStream.self, arguments)
    }
}

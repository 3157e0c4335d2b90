import ArgumentParser
import Control

/// `tidemark stream`: makes a volume that is served over a restore point independent of it.
struct StreamCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "stream",
        abstract: "Copy what a volume lacks of the point that it is served over.",
        discussion: """
            `tidemark restore --instant` starts this by itself, and so does the agent when it \
            starts. Ctrl-C cancels it; the volume stays as usable as it was, over the point.

            Example:
              tidemark stream vm1-now
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The volume.")
    var volume: String

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    func run(_ agent: AgentSession) async throws {
        try await agent.runJob(
            BlockStream.self, .init(device: volume, speed: limit?.bytes, autoDismiss: false))
    }
}

import ArgumentParser
import Control

/// `tidemark volume set`: changes what a volume does.
struct VolumeSetCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "set",
        abstract: "Change what a volume does.",
        discussion: """
            The backing mode says what is done about what only the images below the top hold: \
            cow reads it there each time, cor stores in the top what guests read, stream copies \
            all of it into the top when guests leave room for that, and is cow when it is done. \
            A stream that is cancelled begins anew at the next start of the agent, unless the mode \
            is another one by then.

            Example:
              tidemark volume set vm1 --backing-mode stream
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var name: String

    @Option(help: "What to do about what is below the top.")
    var backingMode: VolumeBackingMode

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(VolumeSet.self, .init(name: name, backingMode: backingMode))
        let volume = try await agent.volume(name)
        try agent.console.result(volume) { "\(name): backing mode \(volume.backingMode)" }
    }
}

import ArgumentParser
import Control

/// `tidemark job cancel`: gives a job up.
struct JobCancelCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Give a job up.",
        discussion: """
            A backup that is given up leaves no point, and its bitmap as it was. A mirror that is \
            ready ends once source and target are equal, and the volume stays where it is; with \
            --force it ends at once, as does a job that is paused.

            Example:
              tidemark job cancel backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    @Flag(help: "End it at once, in whatever state.")
    var force = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(BlockJobCancel.self, .init(device: id, force: force))
        agent.console.done("\(id): being cancelled")
    }
}

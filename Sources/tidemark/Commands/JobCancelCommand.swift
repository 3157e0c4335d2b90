import ArgumentParser
import Control

/// `tidemark job cancel`: gives a job up.
struct JobCancelCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Give a job up.",
        discussion: """
            A backup that is given up leaves no point, and its bitmap as it was.

            Example:
              tidemark job cancel backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobCancel.self, JobReference(id: id))
        agent.console.done("\(id): being cancelled")
    }
}

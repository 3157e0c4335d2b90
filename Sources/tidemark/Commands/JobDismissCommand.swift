import ArgumentParser
import Control

/// `tidemark job dismiss`: forgets a concluded job.
struct JobDismissCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "dismiss",
        abstract: "Forget a concluded job.",
        discussion: """
            Example:
              tidemark job dismiss backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobDismiss.self, JobReference(id: id))
        agent.console.done("\(id): dismissed")
    }
}

import ArgumentParser
import Control

/// `tidemark job complete`: ends a job that is ready.
struct JobCompleteCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "complete",
        abstract: "End a job that is ready: a mirror pivots.",
        discussion: """
            The volume goes on with the target. `job cancel` ends a mirror without that.

            Example:
              tidemark job complete mirror-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobComplete.self, JobReference(id: id))
        agent.console.done("\(id): being completed")
    }
}

import ArgumentParser
import Control

/// `tidemark job finalize`: ends a pending job.
struct JobFinalizeCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "finalize",
        abstract: "End a job that has done its work and waits for this.",
        discussion: """
            Of jobs that end together, all end. `job cancel` undoes what the job did.

            Example:
              tidemark job finalize backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobFinalize.self, JobReference(id: id))
        agent.console.done("\(id): finalized")
    }
}

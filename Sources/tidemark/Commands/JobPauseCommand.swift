import ArgumentParser
import Control

/// `tidemark job pause`: makes a job wait.
struct JobPauseCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "pause",
        abstract: "Make a job wait.",
        discussion: """
            It keeps what it has begun, and stands still as soon as its requests in flight are \
            done.

            Example:
              tidemark job pause backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobPause.self, JobReference(id: id))
        agent.console.done("\(id): being paused")
    }
}

import ArgumentParser
import Control

/// `tidemark job resume`: lets a paused job go on.
struct JobResumeCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "resume",
        abstract: "Let a paused job go on.",
        discussion: """
            Also one that an error has paused, once its cause has been put right.

            Example:
              tidemark job resume backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(JobResume.self, JobReference(id: id))
        agent.console.done("\(id): goes on")
    }
}

import ArgumentParser
import Control

/// `tidemark job wait`: waits for a job.
struct JobWaitCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "wait",
        abstract: "Wait until a job has concluded.",
        discussion: """
            Ends with the code that the job's own command would have ended with. Ctrl-C ends the \
            waiting, not the job. The job is not dismissed.

            Example:
              tidemark job wait backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        let follower = JobFollower(agent: agent, cancelsOnInterrupt: false)
        let (job, _) = try await follower.follow { [id] in id }
        try agent.report(job, wasInterrupted: false)
    }
}

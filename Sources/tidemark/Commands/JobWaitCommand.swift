import ArgumentParser
import Control

/// `tidemark job wait`: waits for a job.
struct JobWaitCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "wait",
        abstract: "Wait until a job has concluded.",
        discussion: """
            Ends with the code that the job's own command would have ended with; with --ready also \
            when a mirror has source and target in step. Ctrl-C ends the waiting, not the job. The \
            job is not dismissed.

            Example:
              tidemark job wait backup-1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    @Flag(help: "End when the job is ready, too.")
    var ready = false

    func run(_ agent: AgentSession) async throws {
        let follower = JobFollower(
            agent: agent, cancelsOnInterrupt: false, endsWhenReady: ready)
        let (job, _) = try await follower.follow { [id] in id }
        guard job.status == .concluded else {
            try agent.console.result(job) { "\(job.id): ready" }
            return
        }
        try agent.report(job, wasInterrupted: false)
    }
}

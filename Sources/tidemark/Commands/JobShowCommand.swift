import ArgumentParser
import Control

/// `tidemark job show`: one job.
struct JobShowCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one job.",
        discussion: """
            Example:
              tidemark job show backup-1 --json
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    func run(_ agent: AgentSession) async throws {
        let jobs = try await agent.execute(QueryJobs.self, .init(id: id))
        guard let job = jobs.first(where: { $0.id == id }) else {
            throw CommandFailure(.failed, "there is no job '\(id)': `tidemark job list` shows them")
        }
        try agent.console.result(job) {
            [JobText.table([job]), JobText.mirror(job), JobReport(job).text]
                .filter { !$0.isEmpty }.joined(separator: "\n")
        }
    }
}

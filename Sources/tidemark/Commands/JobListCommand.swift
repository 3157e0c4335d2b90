import ArgumentParser
import Control

/// `tidemark job list`: all jobs as a table.
struct JobListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the jobs, newest last.",
        discussion: """
            Example:
              tidemark job list
            """)

    @OptionGroup var global: GlobalOptions

    func run(_ agent: AgentSession) async throws {
        let jobs = try await agent.execute(QueryJobs.self, .init())
        try agent.console.result(jobs) { JobText.table(jobs.reversed()) }
    }
}

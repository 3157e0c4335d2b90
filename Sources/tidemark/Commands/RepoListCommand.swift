import ArgumentParser
import Control

/// `tidemark repo list`: all repositories as a table.
struct RepoListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the repositories.",
        discussion: """
            Example:
              tidemark repo list
            """)

    @OptionGroup var global: GlobalOptions

    func run(_ agent: AgentSession) async throws {
        let repositories = try await agent.execute(QueryRepositories.self)
        try agent.console.result(repositories) { RepositoryText.table(repositories) }
    }
}

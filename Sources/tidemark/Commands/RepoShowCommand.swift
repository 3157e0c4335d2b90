import ArgumentParser
import Control

/// `tidemark repo show`: one repository.
struct RepoShowCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one repository.",
        discussion: """
            Example:
              tidemark repo show main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the repository.")
    var name: String

    func run(_ agent: AgentSession) async throws {
        let repositories = try await agent.execute(QueryRepositories.self)
        guard let repository = repositories.first(where: { $0.name == name }) else {
            throw CommandFailure(
                .noSuchRepository,
                "there is no repository '\(name)': `tidemark repo list` shows them")
        }
        try agent.console.result(repository) { RepositoryText.table([repository]) }
    }
}

import ArgumentParser

/// `tidemark repo`: the commands on one noun.
struct RepoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repo",
        abstract: "Create, add and show backup repositories.",
        discussion: """
            Example:
              tidemark repo init main /backup/main
            """,
        subcommands: [
            RepoInitCommand.self, RepoAddCommand.self, RepoListCommand.self, RepoShowCommand.self,
            RepoRebuildCatalogCommand.self,
        ])
}

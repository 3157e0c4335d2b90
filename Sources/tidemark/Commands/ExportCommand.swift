import ArgumentParser

/// `tidemark export`: the commands on one noun.
struct ExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Show what the NBD server offers.",
        discussion: """
            Example:
              tidemark export list
            """,
        subcommands: [ExportListCommand.self])
}

import ArgumentParser

/// `tidemark export`: the commands on one noun.
struct ExportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export",
        abstract: "Offer volumes and restore points to NBD clients.",
        discussion: """
            Every volume is offered under its own name. What is added here comes besides that, and \
            lasts until it is removed or the agent ends.

            Example:
              tidemark export list
            """,
        subcommands: [ExportAddCommand.self, ExportListCommand.self, ExportRemoveCommand.self])
}

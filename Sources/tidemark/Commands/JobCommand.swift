import ArgumentParser

/// `tidemark job`: the commands on one noun.
struct JobCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "job",
        abstract: "Watch and cancel jobs.",
        discussion: """
            Example:
              tidemark job list
            """,
        subcommands: [
            JobListCommand.self, JobShowCommand.self, JobWaitCommand.self, JobCancelCommand.self,
            JobDismissCommand.self,
        ])
}

import ArgumentParser

/// `tidemark job`: the commands on one noun.
struct JobCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "job",
        abstract: "Watch and steer jobs.",
        discussion: """
            Example:
              tidemark job list
            """,
        subcommands: [
            JobListCommand.self, JobShowCommand.self, JobWaitCommand.self, JobPauseCommand.self,
            JobResumeCommand.self, JobCancelCommand.self, JobCompleteCommand.self,
            JobFinalizeCommand.self, JobDismissCommand.self, JobSetSpeedCommand.self,
        ])
}

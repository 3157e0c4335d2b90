import Agent
import ArgumentParser
import Logging

/// `tidemark agent`: runs the agent itself.
struct AgentCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "agent",
        abstract: "Run the agent in the foreground.",
        discussion: """
            It keeps everything it knows in the state directory, answers commands on \
            control.sock there and serves volumes over NBD on nbd.sock. SIGTERM ends it \
            orderly. -v logs more, -q only warnings.

            Example:
              tidemark --state /srv/tidemark agent
            """)

    @OptionGroup var global: GlobalOptions

    func run() async throws {
        let level: Logger.Level = global.verbose ? .debug : global.quiet ? .warning : .info
        try await AgentMain.run(
            configuration: AgentConfiguration(
                stateDirectory: HostPath.absolute(global.stateDirectory), logLevel: level))
    }
}

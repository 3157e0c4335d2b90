import Agent
import ArgumentParser
import BlockCore
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

    @Option(
        help: .size(
            "The bound on the memory for requests, caches, fleeces and jobs, all together; 1G "
                + "unless given, at least 64M."))
    var memory: ByteSize?

    func validate() throws {
        guard let memory, memory.bytes < MemoryBudget.leastLimitBytes else { return }
        throw ValidationError("--memory: the agent needs at least 64M")
    }

    func run() async throws {
        let level: Logger.Level = global.verbose ? .debug : global.quiet ? .warning : .info
        try await AgentMain.run(
            configuration: AgentConfiguration(
                stateDirectory: HostPath.absolute(global.stateDirectory), logLevel: level,
                memoryBytes: memory?.bytes ?? MemoryBudget.defaultLimitBytes))
    }
}

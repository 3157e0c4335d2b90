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

            What guests overwrite while a backup runs is held back until the backup has read it: in \
            memory, then in the state directory. A backup for which both are full is given up; its \
            guest goes on.

            Example:
              tidemark --state /srv/tidemark agent
            """)

    @OptionGroup var global: GlobalOptions

    @Option(
        help: .size(
            "The bound on the memory for requests, caches, fleeces and jobs, all together; 1G "
                + "unless given, at least 64M."))
    var memory: ByteSize?

    @Option(help: .size("What of it backups may hold back so, all together; else 256M."))
    var fleeceMemory: ByteSize?

    @Option(help: .size("The disk space for that, for all backups together; else 64G."))
    var fleeceDisk: ByteSize?

    func validate() throws {
        guard let memory, memory.bytes < MemoryBudget.leastLimitBytes else { return }
        throw ValidationError("--memory: the agent needs at least 64M")
    }

    func run() async throws {
        let level: Logger.Level = global.verbose ? .debug : global.quiet ? .warning : .info
        var configuration = AgentConfiguration(
            stateDirectory: HostPath.absolute(global.stateDirectory), logLevel: level)
        if let memory { configuration.memoryBytes = memory.bytes }
        if let fleeceMemory { configuration.fleeceMemoryBytes = fleeceMemory.bytes }
        if let fleeceDisk { configuration.fleeceDiskBytes = fleeceDisk.bytes }
        try await AgentMain.run(configuration: configuration)
    }
}

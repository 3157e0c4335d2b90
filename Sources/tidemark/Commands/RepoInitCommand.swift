import ArgumentParser
import Control

/// `tidemark repo init`: makes a repository.
struct RepoInitCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "init",
        abstract: "Create a repository and make it known.",
        discussion: """
            LOCATION is a directory that is empty or does not exist yet.

            Example:
              tidemark repo init main /backup/main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name to know it by.")
    var name: String

    @Argument(help: "Where it is to be.", completion: .directory)
    var location: String

    @Option(name: .customLong("digest"), help: "What its blocks are digested with.")
    var digestAlgorithm: DigestAlgorithm?

    func run(_ agent: AgentSession) async throws {
        let location = HostPath.absolute(location)
        _ = try await agent.execute(
            RepositoryInit.self,
            .init(name: name, location: location, digestAlgorithm: digestAlgorithm))
        agent.console.done("\(name): created at \(location)")
    }
}

import ArgumentParser
import Control

/// `tidemark repo add`: makes a repository known.
struct RepoAddCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Make an existing repository known.",
        discussion: """
            Its restore points can be listed, verified and restored at once.

            Example:
              tidemark repo add main /backup/main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name to know it by.")
    var name: String

    @Argument(help: "Where it is.", completion: .directory)
    var location: String

    func run(_ agent: AgentSession) async throws {
        let location = HostPath.absolute(location)
        _ = try await agent.execute(RepositoryAdd.self, .init(name: name, location: location))
        agent.console.done("\(name): added, at \(location)")
    }
}

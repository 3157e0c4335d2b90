import ArgumentParser
import Control

/// `tidemark points`: restore points as a table.
struct PointsCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "points",
        abstract: "List restore points, newest last.",
        discussion: """
            Example:
              tidemark points vm1 --repo main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "Only those of this volume.")
    var volume: String?

    @Option(help: ArgumentHelp("Only those in this repository.", valueName: "name"))
    var repo: String?

    func run(_ agent: AgentSession) async throws {
        let points = try await agent.execute(
            QueryPoints.self, .init(volume: volume, repository: repo))
        try agent.console.result(points) { PointText.table(points) }
    }
}

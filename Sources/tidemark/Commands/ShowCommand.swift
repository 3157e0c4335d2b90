import ArgumentParser
import Control

/// `tidemark show`: everything about one restore point.
struct ShowCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Show one restore point.",
        discussion: """
            POINT is an id, a unique prefix of one, VOL@latest, VOL@-1 (the one before the \
            latest) or VOL@TIMESTAMP (the latest not after that time).

            Example:
              tidemark show vm1@latest
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The restore point.")
    var point: String

    func run(_ agent: AgentSession) async throws {
        let point = try await agent.execute(PointResolve.self, .init(point: point))
        try agent.console.result(point) { PointText.details(point) }
    }
}

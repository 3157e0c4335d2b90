import ArgumentParser
import Control

/// `tidemark verify`: checks restore points.
struct VerifyCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Read restore points back and compare their digests.",
        discussion: """
            Either points or a repository. Exit code 3 says that some points are good and others \
            are not.

            Examples:
              tidemark verify vm1@latest
              tidemark verify --repo main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The restore points, as in `tidemark show`.")
    var points: [String] = []

    @Option(help: ArgumentHelp("Verify every point in this repository.", valueName: "name"))
    var repo: String?

    func run(_ agent: AgentSession) async throws {
        try await agent.runJob(
            PointVerify.self,
            .init(points: points.isEmpty ? nil : points, repository: repo, autoDismiss: false))
    }

    func validate() throws {
        if points.isEmpty && repo == nil {
            throw ValidationError("name restore points, or a repository with --repo")
        }
    }
}

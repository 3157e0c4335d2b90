import ArgumentParser
import Control

/// `tidemark bitmap merge`: adds bitmaps to another.
struct BitmapMergeCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge",
        abstract: "Merge dirty bitmaps into another.",
        discussion: """
            The target afterwards holds its own dirt and that of all sources; if one cannot be \
            merged, nothing changes.

            Example:
              tidemark bitmap merge vm1 week monday tuesday
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The bitmap to merge into.")
    var target: String

    @Argument(help: "The bitmaps to merge.")
    var sources: [String]

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapMerge.self,
            .init(node: volume, target: target, bitmaps: sources.map { .local($0) }))
        agent.console.done("\(volume): \(sources.joined(separator: ", ")) merged into \(target)")
    }
}

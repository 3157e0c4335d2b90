import ArgumentParser
import Control

/// `tidemark job set-speed`: limits how fast a job copies.
struct JobSetSpeedCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "set-speed",
        abstract: "Limit how fast a job copies, while it runs.",
        discussion: """
            0 takes the limit away. The limit is for the job's own copying, never for guests.

            Examples:
              tidemark job set-speed backup-1 50M
              tidemark job set-speed backup-1 0
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The id of the job.")
    var id: String

    @Argument(help: .size("The most to copy in a second.", valueName: "rate"))
    var rate: ByteSize

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockJobSetSpeed.self, .init(device: id, speed: Int64(clamping: rate.bytes)))
        agent.console.done(
            rate.bytes == 0 ? "\(id): no limit" : "\(id): \(ByteSize.text(rate.bytes))/s")
    }
}

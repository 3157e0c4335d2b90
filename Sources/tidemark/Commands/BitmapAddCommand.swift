import ArgumentParser
import Control

/// `tidemark bitmap add`: makes a bitmap that is kept.
struct BitmapAddCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Add a dirty bitmap to a volume.",
        discussion: """
            It records from now on and is kept across restarts, also after a crash.

            Example:
              tidemark bitmap add vm1 daily --granularity 64K
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of the volume.")
    var volume: String

    @Argument(help: "The name of the new bitmap.")
    var name: String

    @Option(help: .size("What one bit stands for, a power of two from 512 bytes."))
    var granularity: ByteSize?

    @Flag(help: "Do not record until it is enabled.")
    var disabled = false

    func run(_ agent: AgentSession) async throws {
        _ = try await agent.execute(
            BlockDirtyBitmapAdd.self,
            .init(
                node: volume, name: name, granularity: granularity.map { UInt32($0.bytes) },
                persistent: true, disabled: disabled))
        agent.console.done("\(volume): bitmap \(name) added")
    }

    func validate() throws {
        if let granularity, granularity.bytes > 2 << 30 {
            throw ValidationError("--granularity: at most 2G")
        }
    }
}

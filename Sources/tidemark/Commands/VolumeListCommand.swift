import ArgumentParser
import Control

/// `tidemark volume list`: all volumes as a table.
struct VolumeListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the volumes.",
        discussion: """
            Example:
              tidemark volume list --json | jq -r '.[].name'
            """)

    @OptionGroup var global: GlobalOptions

    func run(_ agent: AgentSession) async throws {
        let volumes = try await agent.execute(QueryVolumes.self, .init())
        try agent.console.result(volumes) {
            var table = TextTable([
                .text("NAME"), .number("SIZE"), .text("FORMAT"), .text("STATE"),
                .number("CLIENTS"), .number("BITMAPS"), .text("PATH"),
            ])
            for volume in volumes {
                table.append([
                    volume.name, ByteSize.text(volume.size), volume.format, volume.state,
                    "\(volume.connections)", "\(volume.bitmaps.count)", volume.path,
                ])
            }
            return table.text
        }
    }
}

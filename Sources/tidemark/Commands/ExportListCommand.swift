import ArgumentParser
import Control

/// `tidemark export list`: what the NBD server offers, as a table.
struct ExportListCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the NBD exports.",
        discussion: """
            Example:
              tidemark export list
            """)

    @OptionGroup var global: GlobalOptions

    func run(_ agent: AgentSession) async throws {
        let exports = try await agent.execute(QueryBlockExports.self)
        try agent.console.result(exports) {
            var table = TextTable([
                .text("NAME"), .text("SHOWS"), .text("MODE"), .text("BITMAPS"),
                .number("CLIENTS"), .text("URI"),
            ])
            for export in exports {
                table.append([
                    export.name, export.nodeName,
                    export.writable ? "read-write" : "read-only",
                    export.bitmaps.joined(separator: ","), "\(export.connections)", export.uri,
                ])
            }
            return table.text
        }
    }
}

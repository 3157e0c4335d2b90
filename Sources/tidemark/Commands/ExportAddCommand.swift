import ArgumentParser
import Control

/// `tidemark export add`: offers a volume once more, a node, or a restore point.
struct ExportAddCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Offer a volume, a node or a restore point to NBD clients.",
        discussion: """
            A volume's name must differ from those that are offered already, its own among them. A \
            restore point is read-only and is named as in `tidemark show`.

            Examples:
              tidemark export add vm1 --name vm1-backup --read-only --bitmap daily
              tidemark export add vm1@latest --name vm1-yesterday
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The name of a volume or node, or a restore point.")
    var source: String

    @Option(help: "What clients ask for; a point's id unless told.")
    var name: String?

    @Flag(help: "Clients may not write.")
    var readOnly = false

    @Option(help: "Offer this dirty bitmap of the volume; may be given several times.")
    var bitmap: [String] = []

    func run(_ agent: AgentSession) async throws {
        let arguments = try await arguments(agent)
        _ = try await agent.execute(BlockExportAdd.self, arguments)
        let exports = try await agent.execute(QueryBlockExports.self)
        guard let export = exports.first(where: { $0.id == arguments.id }) else {
            throw CommandFailure(.failed, "\(arguments.id): the export was removed again at once")
        }
        try agent.console.result(export) { export.uri }
    }

    private func arguments(_ agent: AgentSession) async throws -> BlockExportAdd.Arguments {
        let nodes = try await agent.execute(QueryNamedBlockNodes.self, .init(flat: true))
        guard let node = nodes.first(where: { $0.nodeName == source }) else {
            guard bitmap.isEmpty else {
                throw CommandFailure(
                    .failed, "there is no volume or node '\(source)' whose bitmaps could be offered"
                )
            }
            let point = try await agent.execute(PointResolve.self, .init(point: source))
            let name = name ?? point.id
            return .init(id: name, point: point.id, name: name)
        }
        let name = name ?? source
        return .init(
            id: name, nodeName: source, name: name, writable: !readOnly && !node.ro,
            bitmaps: bitmap.map { .local($0) })
    }
}

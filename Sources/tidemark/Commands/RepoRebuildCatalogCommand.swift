import Agent
import ArgumentParser
import Control

/// `tidemark repo rebuild-catalog`: makes a new catalog from what repositories say.
struct RepoRebuildCatalogCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "rebuild-catalog",
        abstract: "Make a new catalog from repositories, without an agent.",
        discussion: """
            For a state directory whose catalog is lost or broken. A broken catalog is kept \
            aside. Backups leave a copy of the catalog in their repository: from it come the \
            volumes, if their images are still there; others must be imported again. The next \
            backups compare with the last points instead of trusting bitmaps.

            Example:
              tidemark --state /srv/tidemark repo rebuild-catalog /backup/main
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "Where the repositories are.", completion: .directory)
    var locations: [String]

    func run() async throws {
        let summary = try await CatalogRebuild.run(
            stateDirectory: HostPath.absolute(global.stateDirectory),
            locations: locations.map { HostPath.absolute($0) })
        let document: JSONValue = [
            "volumes": .int(Int64(summary.volumes)), "points": .int(Int64(summary.points)),
            "groups": .int(Int64(summary.groups)),
            "revived": .array(summary.revived.map { .string($0) }),
            "missing": .array(summary.missing.map { .string($0) }),
            "kept-aside": summary.keptAside.map { .string($0) } ?? .null,
        ]
        try global.console.result(document) {
            let kept = summary.keptAside.map { "; the old catalog is \($0)" } ?? ""
            let groups = summary.groups > 0 ? ", \(summary.groups) groups" : ""
            var lines = [
                "\(summary.points) points of \(summary.volumes) volumes\(groups) found\(kept)"
            ]
            if !summary.revived.isEmpty {
                lines.append("volumes again: \(summary.revived.joined(separator: ", "))")
            }
            if !summary.missing.isEmpty {
                lines.append("images not here: \(summary.missing.joined(separator: ", "))")
            }
            return lines.joined(separator: "\n")
        }
    }
}

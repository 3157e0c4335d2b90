import BlockCore
import Catalog
package import Control

/// What can be told of a state directory in which no agent answers.
package enum OfflineDiagnosis {
    /// The problems found; never empty, since the agent's absence is one. Changes nothing.
    package static func run(stateDirectory: String) -> [ProblemInfo] {
        guard HostDirectory.exists(stateDirectory) else {
            return [
                ProblemInfo(
                    .error, "state directory", "\(stateDirectory) does not exist",
                    remedy: "name the right one with --state, or start an agent, which makes it")
            ]
        }
        do throws(CatalogError) {
            let lock = try StateDirectoryLock(directory: stateDirectory)
            defer { withExtendedLifetime(lock) {} }
            try Catalog.check(in: stateDirectory)
        } catch {
            if error.kind == .locked {
                return [
                    ProblemInfo(
                        .error, "agent", "it runs but does not answer: \(error)",
                        remedy: "look at its log; stop it and start it again")
                ]
            }
            return [
                ProblemInfo(
                    .error, "catalog", "\(error)",
                    remedy: error.kind == .corrupt
                        ? "`tidemark repo rebuild-catalog LOCATION…` makes a new one"
                        : "remove the cause, then start the agent")
            ]
        }
        return [
            ProblemInfo(
                .error, "agent", "none runs in \(stateDirectory); its catalog is sound",
                remedy: "start it with `tidemark --state \(stateDirectory) agent`")
        ]
    }
}

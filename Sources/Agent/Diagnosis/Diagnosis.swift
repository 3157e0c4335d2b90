import BlockCore
import Catalog
import Control
import Repository
import Volumes

// What `tidemark doctor` looks at. A diagnosis changes nothing and stops nothing: what hangs is
// given up after a time, and is a problem itself.
//
//   host           room in the state directory
//   catalog        SQLite's own check
//   volumes        those that are not served; bitmaps that are inconsistent or left frozen
//   repositories   those that do not answer; points that cannot be restored; room; catalog copies

/// Looks for what is wrong with a running agent and all that it uses.
struct Diagnosis: Sendable {
    /// How long a repository may take to answer.
    static let patience = Duration.seconds(10)
    /// Below this a file system counts as nearly full.
    static let scarceBytes: UInt64 = 1 << 30

    let agent: Agent

    /// All problems, errors first.
    func run() async throws(BlockError) -> [ProblemInfo] {
        var problems = try await hostProblems()
        problems += try await volumeProblems()
        problems += try await repositoryProblems()
        return problems.filter { $0.severity == .error }
            + problems.filter { $0.severity == .warning }
    }

    private func hostProblems() async throws(BlockError) -> [ProblemInfo] {
        let directory = agent.configuration.stateDirectory
        let catalog = agent.queue.catalog
        return try await IOPool.background.run { () throws(BlockError) in
            var problems: [ProblemInfo] = []
            let free = try HostDirectory.freeBytes(at: directory)
            if free < Self.scarceBytes {
                problems.append(
                    ProblemInfo(
                        .error, "state directory", "\(directory) has \(free >> 20) MiB free",
                        remedy: "make room: without it new regions cannot be announced, and "
                            + "guests' writes fail"))
            }
            for problem in catalog.damage() {
                problems.append(
                    ProblemInfo(
                        .error, "catalog", problem,
                        remedy: "stop the agent and run `tidemark repo rebuild-catalog LOCATION…`"))
            }
            return problems
        }
    }
}

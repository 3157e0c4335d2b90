import BlockCore
import Catalog
import Control
import Jobs
import Repository
import Volumes

extension Diagnosis {
    /// What is wrong with repositories and the points in them.
    func repositoryProblems() async throws(BlockError) -> [ProblemInfo] {
        let records = try await agent.repositories.records()
        return await withTaskGroup(of: [ProblemInfo].self) { group in
            for record in records { group.addTask { await look(at: record) } }
            var problems: [ProblemInfo] = []
            for await found in group { problems += found }
            return problems.sorted { $0.subject < $1.subject }
        }
    }

    private func look(at record: RepositoryRecord) async -> [ProblemInfo] {
        do throws(BlockError) {
            return try await Detachment.run(on: record.location, within: Self.patience) {
                [agent] () async throws(BlockError) in
                let attached = try await agent.repositories.repository(record.name)
                return try await Self.problems(of: attached, agent)
            }
        } catch {
            return [
                ProblemInfo(
                    .error, "repository \(record.name)", "it cannot be used: \(error)",
                    remedy: "make \(record.location) reachable; backups to it fail meanwhile, and "
                        + "guests go on")
            ]
        }
    }

    private static func problems(
        of attached: AttachedRepository, _ agent: Agent
    ) async throws(BlockError) -> [ProblemInfo] {
        let subject = "repository \(attached.name)"
        let repository = attached.repository
        var problems: [ProblemInfo] = []
        let points = try await repository.points()
        for point in points {
            guard let problem = point.problem else { continue }
            problems.append(
                ProblemInfo(
                    .error, "point \(point.id)", "it cannot be restored: \(problem)",
                    remedy: "bring its files back from elsewhere; the next backup begins a new "
                        + "chain if it needs to"))
        }
        let free = try await repository.freeBytes()
        if free < scarceBytes {
            problems.append(
                ProblemInfo(
                    .warning, subject, "\(repository.location) has \(free >> 20) MiB free",
                    remedy: "make room: backups to it fail when it is full"))
        }
        if !points.isEmpty, try await !hasCopy(repository, agent) {
            problems.append(
                ProblemInfo(
                    .warning, subject, "it has no copy of this agent's catalog",
                    remedy: "the next backup to it makes one"))
        }
        return problems
    }

    private static func hasCopy(
        _ repository: any BackupRepository, _ agent: Agent
    ) async throws(BlockError) -> Bool {
        let uuid = try await agent.queue.run { (catalog) throws(BlockError) in
            do throws(CatalogError) { return try catalog.identity().uuid.lowercased() } catch {
                throw BlockError(catalog: error, "find the catalog's identity")
            }
        }
        return try await repository.catalogCopies().contains(uuid)
    }
}

import BlockCore
import Catalog
import Foundation
import Jobs
import Repository
import Volumes

/// The repositories that the agent knows. Each is opened when it is first needed, and asked for
/// again as long as it cannot be opened: a repository that is away stops nothing but its own use.
actor RepositoryStore {
    private let queue: CatalogQueue
    private var attached: [String: AttachedRepository] = [:]
    /// The threads of each repository: one that hangs holds up no other, nor anything else.
    private var pools: [String: IOPool] = [:]
    private static let poolThreadCount = 6

    init(queue: CatalogQueue) {
        self.queue = queue
    }

    /// The catalog's rows, by name.
    func records() async throws(BlockError) -> [RepositoryRecord] {
        try await queue.run { (catalog) throws(BlockError) in
            do throws(CatalogError) {
                return try catalog.read { (snapshot) throws(CatalogError) in
                    try snapshot.repositories()
                }
            } catch {
                throw BlockError(catalog: error, "list the repositories")
            }
        }
    }

    /// The repository by that name, opened, for a job: after a cancellation of the present task it
    /// is waited for a few seconds only.
    nonisolated func open(_ name: String) async throws(BlockError) -> AttachedRepository {
        try await Detachment.run(on: "repository \(name)") { () async throws(BlockError) in
            try await self.repository(name)
        }
    }

    /// The repository by that name, opened.
    func repository(_ name: String) async throws(BlockError) -> AttachedRepository {
        if let known = attached[name] { return known }
        let record = try await record(name)
        let repository = try await RepositoryLocation(record.location).open(on: pool(of: name))
        guard repository.details.uuid == record.uuid.uuidString.lowercased() else {
            throw BlockError(
                .corrupt, "open the repository", on: record.location,
                detail: "another repository is there now: \(repository.details.uuid)")
        }
        try await repository.sweep()
        let result = AttachedRepository(id: record.id, name: name, repository: repository)
        attached[name] = result
        return result
    }

    /// Has the repository by that name opened anew at its next use, after a failure: if it was
    /// away, what was begun there is still there to be removed, and another may be in its place.
    func openAnew(_ name: String) { attached[name] = nil }

    /// The row of the repository by that name, which need not answer.
    func record(_ name: String) async throws(BlockError) -> RepositoryRecord {
        guard let record = try await records().first(where: { $0.name == name }) else {
            throw BlockError(
                .notFound, "find the repository", on: name,
                detail: "no such repository: `tidemark repo list` shows those that are known")
        }
        return record
    }

    /// The threads for the repository of that name.
    func pool(of name: String) -> IOPool {
        if let pool = pools[name] { return pool }
        let pool = IOPool(
            name: "repository", threadCount: Self.poolThreadCount,
            niceness: IOPool.backgroundNiceness)
        pools[name] = pool
        return pool
    }

    /// The repository with that row in the catalog.
    func repository(id: Int64) async throws(BlockError) -> AttachedRepository {
        guard let record = try await records().first(where: { $0.id == id }) else {
            throw BlockError(.notFound, "find the repository", on: "row \(id)")
        }
        return try await repository(record.name)
    }

    /// Makes a repository that `repository` opened, or created, known under `name`.
    func add(
        _ name: String, location: RepositoryLocation, repository: any BackupRepository
    ) async throws(BlockError) {
        let points = try await repository.points()
        let record = try await queue.run { (catalog) throws(BlockError) in
            do throws(CatalogError) {
                return try catalog.write { (transaction) throws(CatalogError) in
                    let record = try transaction.insertRepository(
                        RepositoryRecord(
                            uuid: UUID(uuidString: repository.details.uuid) ?? UUID(), name: name,
                            location: location.text))
                    for point in points {
                        guard let manifest = point.manifest else { continue }
                        try transaction.upsertPoint(
                            PointRecord(manifest, repositoryID: record.id))
                    }
                    return record
                }
            } catch {
                throw BlockError(catalog: error, "add the repository \(name)")
            }
        }
        attached[name] = AttachedRepository(id: record.id, name: name, repository: repository)
    }
}

/// Where a repository is, as users write it.
struct RepositoryLocation: Sendable {
    /// As it is kept: a directory's path made absolute.
    let text: String

    init(_ text: String) throws(BlockError) {
        guard !text.hasPrefix("rbd:") else {
            throw BlockError(
                .unsupported, "use the repository", on: text,
                detail: "this version keeps repositories in directories")
        }
        guard !text.isEmpty else {
            throw BlockError(.invalid, "use the repository", on: "''", detail: "name a directory")
        }
        self.text = URL(fileURLWithPath: text).standardizedFileURL.path
    }

    func open(
        on pool: IOPool = .background
    ) async throws(BlockError) -> any BackupRepository {
        try await DirectoryRepository.open(at: text, pool: pool)
    }

    func create(
        _ algorithm: Repository.DigestAlgorithm, on pool: IOPool
    ) async throws(BlockError) -> any BackupRepository {
        try await DirectoryRepository.create(at: text, algorithm: algorithm, pool: pool)
    }
}

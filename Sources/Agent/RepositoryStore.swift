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

    /// The repository by that name, opened.
    func repository(_ name: String) async throws(BlockError) -> AttachedRepository {
        if let known = attached[name] { return known }
        guard let record = try await records().first(where: { $0.name == name }) else {
            throw BlockError(
                .notFound, "find the repository", on: name,
                detail: "no such repository: `tidemark repo list` shows those that are known")
        }
        let repository = try await RepositoryLocation(record.location).open()
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

    func open() async throws(BlockError) -> any BackupRepository {
        try await DirectoryRepository.open(at: text)
    }

    func create(_ algorithm: Repository.DigestAlgorithm) async throws(BlockError)
        -> any BackupRepository
    {
        try await DirectoryRepository.create(at: text, algorithm: algorithm)
    }
}

import BlockCore
import Catalog
import Control
import Foundation
import Repository

extension Agent {
    func registerRepositoryCommands(in table: inout CommandTable) {
        table.on(RepositoryInit.self) { arguments in
            let location = try RepositoryLocation(arguments.location)
            let algorithm: Repository.DigestAlgorithm =
                arguments.digestAlgorithm == .sha256 ? .sha256 : .xxh3
            try await checkIsNew(arguments.name)
            try await repositories.add(
                arguments.name, location: location,
                repository: location.create(
                    algorithm, on: repositories.pool(of: arguments.name)))
            return Nothing()
        }
        table.on(RepositoryAdd.self) { arguments in
            let location = try RepositoryLocation(arguments.location)
            try await checkIsNew(arguments.name)
            try await repositories.add(
                arguments.name, location: location,
                repository: location.open(on: repositories.pool(of: arguments.name)))
            return Nothing()
        }
        table.on(QueryRepositories.self) { _ in
            var infos: [RepositoryInfo] = []
            for record in try await repositories.records() {
                let points = try? await PointFinder(repositories: repositories)
                    .points(repository: record.name)
                infos.append(
                    RepositoryInfo(
                        name: record.name, uuid: record.uuid.uuidString.lowercased(),
                        location: record.location,
                        points: points?.count ?? 0,
                        storedBytes: points?.reduce(0) {
                            $0 + ($1.summary.manifest?.image.storedBytes ?? 0)
                        }
                            ?? 0,
                        available: points != nil))
            }
            return infos
        }
    }

    private func checkIsNew(_ name: String) async throws {
        guard try await !repositories.records().contains(where: { $0.name == name }) else {
            throw ControlError.generic("There is a repository named '\(name)' already")
        }
    }
}

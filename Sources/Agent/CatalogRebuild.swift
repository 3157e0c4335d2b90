import BlockCore
import Catalog
import Foundation
import Jobs
import Repository
import Volumes

/// What a rebuilt catalog holds.
package struct CatalogRebuildSummary: Sendable {
    /// How many volumes have points.
    package var volumes: Int
    package var points: Int
    /// How many groups of points are complete.
    package var groups: Int
    /// The volumes that were taken from a copy of the lost catalog, by name.
    package var revived: [String] = []
    /// Those in it whose images are not here.
    package var missing: [String] = []
    /// Where the catalog that was there before is now.
    package var keptAside: String?
}

/// Makes a new catalog from what repositories say about themselves, without an agent.
///
/// The catalog that was there is kept aside, never thrown away. The new one has lists, never bits:
/// nobody recorded what changed in between. Volumes come from the copy of the lost catalog that a
/// repository may have (`CatalogRevival`); others are imported again by their images.
package enum CatalogRebuild {
    /// Rebuilds the catalog of `stateDirectory`, in which no agent may run. Each repository gets
    /// the name of its folder.
    package static func run(
        stateDirectory: String, locations: [String]
    ) async throws -> CatalogRebuildSummary {
        let lock = try StateDirectoryLock(directory: stateDirectory)
        defer { withExtendedLifetime(lock) {} }
        // Everything is opened before anything is moved.
        var found: [(location: RepositoryLocation, repository: any BackupRepository)] = []
        for text in locations {
            let location = try RepositoryLocation(text)
            found.append((location, try await location.open()))
        }
        let revival = CatalogRevival(stateDirectory: stateDirectory)
        let copy = try await revival.findCopy(in: found.map(\.repository))
        let keptAside = try Catalog.setAside(in: stateDirectory)
        let queue = CatalogQueue(catalog: try Catalog(directory: stateDirectory))
        let store = RepositoryStore(queue: queue)
        var volumes: Set<String> = []
        var pointCount = 0
        var groupCount = 0
        for (location, repository) in found {
            try await store.add(
                freeName(for: location, among: store.records().map(\.name)), location: location,
                repository: repository)
            for point in try await repository.points() {
                guard let manifest = point.manifest else { continue }
                volumes.insert(manifest.volume.uuid)
                pointCount += 1
            }
            groupCount += try await repository.groups().count
        }
        var summary = CatalogRebuildSummary(
            volumes: volumes.count, points: pointCount, groups: groupCount, keptAside: keptAside)
        if let copy {
            (summary.revived, summary.missing) = try revival.revive(copy, into: queue.catalog)
        }
        try queue.catalog.close()
        return summary
    }

    private static func freeName(for location: RepositoryLocation, among taken: [String]) -> String
    {
        let folder = URL(fileURLWithPath: location.text).lastPathComponent
        var name = folder
        var number = 2
        while taken.contains(name) {
            name = "\(folder)-\(number)"
            number += 1
        }
        return name
    }
}

import BlockCore
import Catalog
import Foundation
import Jobs
import Logging
import Repository
import Volumes

/// Puts copies of the catalog into repositories, so that the loss of the state directory costs
/// neither the list of volumes nor what their bitmaps continue.
///
/// It works in the background and one copy at a time. One that fails is only reported: the next
/// backup makes another.
actor CatalogCopies {
    private static let prefix = ".tidemark-catalog-copy-"
    private static let lengthBytesMax = 1 << 30

    private let catalog: Catalog
    private let stateDirectory: String
    private let log: Logger
    private var last: Task<Void, Never>?

    init(catalog: Catalog, stateDirectory: String, log: Logger) {
        self.catalog = catalog
        self.stateDirectory = stateDirectory
        self.log = log
    }

    /// Begins to put a copy into `repository`, after those that were asked for before.
    func put(into repository: AttachedRepository) {
        let previous = last
        last = Task {
            await previous?.value
            do throws(BlockError) {
                let (bytes, name) = try await make()
                try await repository.repository.putCatalogCopy(bytes, named: name)
            } catch {
                log.warning("the catalog was not copied to \(repository.name): \(error)")
            }
        }
    }

    /// Removes what a crash left of copies in the state directory, in which no other agent runs.
    static func sweep(_ stateDirectory: String) throws(BlockError) {
        for name in try HostDirectory.names(in: stateDirectory) where name.hasPrefix(prefix) {
            // A rebuild opens copies in folders of their own.
            try? FileManager.default.removeItem(atPath: "\(stateDirectory)/\(name)")
        }
    }

    /// A name for a copy that is being made or read in a state directory.
    static func temporaryPath(in stateDirectory: String) -> String {
        "\(stateDirectory)/\(prefix)\(UInt32.random(in: 0 ... .max))"
    }

    private func make() async throws(BlockError) -> (bytes: [UInt8], name: String) {
        let path = Self.temporaryPath(in: stateDirectory)
        return try await IOPool.background.run { [catalog] () throws(BlockError) in
            defer { try? HostDirectory.removeFile(path) }
            let identity: CatalogIdentity
            do throws(CatalogError) {
                try catalog.copyLists(to: path)
                identity = try catalog.identity()
            } catch {
                throw BlockError(catalog: error, "copy the catalog")
            }
            let bytes = try HostDirectory.readFile(path, limitBytes: Self.lengthBytesMax)
            return (bytes, identity.uuid.lowercased())
        }
    }
}

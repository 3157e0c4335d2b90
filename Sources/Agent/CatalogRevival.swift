import BlockCore
import Catalog
import Foundation
import Repository

// What a copy of the catalog gives back: the volumes whose images are still there, under their old
// identity, and their bitmaps with the points that they continued. The bits are lost, so every
// bitmap is inconsistent: the next backup of a volume compares with its last point.

/// Finds the copy of a lost catalog in repositories and takes its volumes into a new one.
struct CatalogRevival {
    let stateDirectory: String

    /// The newest copy of a catalog that was last used on this host in this state directory; nil if
    /// there is none. It is opened in a folder of its own, which goes with it.
    func findCopy(
        in repositories: [any BackupRepository]
    ) async throws(BlockError) -> CatalogCopyFile? {
        var newest: CatalogCopyFile?
        for repository in repositories {
            for name in try await repository.catalogCopies() {
                let bytes = try await repository.catalogCopy(named: name)
                // One that is damaged, or of a newer version, is as good as none.
                guard let copy = try? CatalogCopyFile(bytes, beside: stateDirectory),
                    copy.identity.stateDirectory == stateDirectory,
                    copy.identity.machineID == MachineID.read()
                else { continue }
                if copy.newestTime >= newest?.newestTime ?? .distantPast { newest = copy }
            }
        }
        return newest
    }

    /// Takes the volumes of `copy` whose images exist into `catalog`, which knows the
    /// repositories already. Returns their names, and of the others.
    func revive(
        _ copy: CatalogCopyFile, into catalog: Catalog
    ) throws(CatalogError) -> (revived: [String], missing: [String]) {
        let known = try catalog.repositories()
        var newIDs: [Int64: Int64] = [:]
        for old in try copy.catalog.repositories() {
            newIDs[old.id] = known.first { $0.uuid == old.uuid }?.id
        }
        var revived: [String] = []
        var missing: [String] = []
        for volume in try copy.catalog.volumes() {
            let nodes = try copy.catalog.nodes(ofVolume: volume.id)
            guard let top = nodes.first, HostDirectory.exists(top.path) else {
                missing.append(volume.name)
                continue
            }
            let bitmaps = try copy.catalog.bitmaps(ofVolume: volume.id)
            try catalog.write { (transaction) throws(CatalogError) in
                let record = try transaction.insertVolume(volume, nodes: nodes)
                for var bitmap in bitmaps {
                    bitmap.volumeID = record.id
                    bitmap.continues = bitmap.continues.flatMap { point in
                        newIDs[point.repositoryID].map {
                            PointReference(repositoryID: $0, pointID: point.pointID)
                        }
                    }
                    _ = try transaction.insertBitmap(bitmap)
                }
            }
            revived.append(volume.name)
        }
        return (revived, missing)
    }
}

/// A copy of a catalog, opened where it can be brought to the present schema.
final class CatalogCopyFile {
    let catalog: Catalog
    let identity: CatalogIdentity
    /// When the last thing that it tells of happened.
    let newestTime: Date
    private let folder: String

    /// Opens what is in `bytes`. Throws if that is no catalog, or a damaged one.
    init(_ bytes: [UInt8], beside stateDirectory: String) throws {
        folder = CatalogCopies.temporaryPath(in: stateDirectory)
        try HostDirectory.create(folder)
        do {
            try HostDirectory.replaceFile("\(folder)/\(Catalog.fileName)", with: bytes)
            catalog = try Catalog(directory: folder)
            identity = try catalog.identity()
            newestTime = try catalog.points().map(\.createdAt).max() ?? .distantPast
        } catch {
            try? FileManager.default.removeItem(atPath: folder)
            throw error
        }
    }

    deinit {
        try? catalog.close()
        try? FileManager.default.removeItem(atPath: folder)
    }
}

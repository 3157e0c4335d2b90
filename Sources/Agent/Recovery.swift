import BlockCore
import Catalog
import Jobs
import Logging
import Repository
import Volumes

// What a crash leaves of a backup: a frozen bitmap with its successor, and the id of the point
// that was to come. Only the repository knows whether that point became whole:
//
//   whole         the successor is promoted, as if the backup had ended
//   absent        the two are merged: the backup has never been
//   unreachable   both are kept, until the repository answers at a later start
//
// The repository published the point only after the source had been flushed, so a point that is
// whole holds nothing that the source lost.

enum Recovery {
    /// Settles every bitmap that a backup left frozen.
    static func settleFrozenBitmaps(
        of volumes: [Volume], repositories: RepositoryStore, log: Logger
    ) async {
        for volume in volumes {
            for bitmap in volume.frozenBitmaps() {
                do throws(BlockError) {
                    let outcome = try await settle(bitmap, repositories)
                    log.notice("\(outcome)", metadata: metadata(bitmap))
                } catch {
                    log.warning(
                        "a bitmap stays frozen until its repository answers: \(error)",
                        metadata: metadata(bitmap))
                }
            }
        }
    }

    private static func metadata(_ bitmap: FrozenBitmap) -> Logger.Metadata {
        [
            "volume": "\(bitmap.volume.name)", "bitmap": "\(bitmap.name)",
            "point": "\(bitmap.pending.pointID)",
        ]
    }

    private static func settle(
        _ bitmap: FrozenBitmap, _ repositories: RepositoryStore
    ) async throws(BlockError) -> String {
        let repository = try await repositories.repository(id: bitmap.pending.repositoryID)
        guard let pointID = PointID(bitmap.pending.pointID),
            try await repository.repository.contains(pointID, volumeUUID: bitmap.volume.uuid)
                == .whole,
            let manifest = try await repository.repository.chain(for: pointID).last
        else {
            try await bitmap.mergeBack()
            return "an interrupted backup was undone; nothing its bitmap recorded is lost"
        }
        try await bitmap.promote(PointRecord(manifest, repositoryID: repository.id))
        return "an interrupted backup had made its point; its bitmap continues it"
    }
}

package import BlockCore
import Catalog
import Repository
package import Volumes

// What a crash, or a failure at the very end, leaves of a backup: a frozen bitmap with its
// successor, and the id of the point that was to come. Only the repository knows whether that
// point became whole:
//
//   whole         the successor is promoted, as if the backup had ended; after a differential, the
//                 two are merged, and the bitmap continues what it continued before
//   absent        the two are merged: the backup has never been
//   unreachable   both are kept, until the repository answers
//
// The repository published the point only after the source had been flushed, so a point that is
// whole holds nothing that the source lost. Merging is safe whatever became of the point.

/// Ends what was left open of a backup.
package enum Settlement: Sendable {
    /// The point is whole, and the bitmap continues it.
    case promoted
    /// The point is a whole differential, and the bitmap goes on as before.
    case kept
    /// There is no point, and nothing that the bitmap recorded is lost.
    case undone

    /// Asks `repository` for the pending point of `bitmap`, which no backup is at work on, and
    /// ends the freeze accordingly. Throws if the repository cannot tell.
    package static func settle(
        _ bitmap: FrozenBitmap, in repository: AttachedRepository
    ) async throws(BlockError) -> Settlement {
        guard let manifest = try await wholePoint(of: bitmap, in: repository) else {
            try await bitmap.mergeBack()
            return .undone
        }
        let record = PointRecord(manifest, repositoryID: repository.id)
        guard manifest.level != .differential else {
            try await bitmap.mergeBack(adding: record)
            return .kept
        }
        try await bitmap.promote(record)
        return .promoted
    }

    /// The manifest of the pending point. A damaged one is as good as none.
    private static func wholePoint(
        of bitmap: FrozenBitmap, in repository: AttachedRepository
    ) async throws(BlockError) -> Manifest? {
        guard let pointID = PointID(bitmap.pending.pointID) else { return nil }
        do throws(BlockError) {
            guard
                try await repository.repository.contains(pointID, volumeUUID: bitmap.volume.uuid)
                    == .whole
            else { return nil }
            return try await repository.repository.chain(for: pointID).last
        } catch {
            guard error.kind == .corrupt || Mutant.settleWithoutAnswer.isActive else {
                throw error
            }
            return nil
        }
    }
}

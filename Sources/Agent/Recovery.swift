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

/// Settles what a crash left frozen, in the background: guests do not wait for a repository.
actor Recovery {
    private var unsettled: [FrozenBitmap]
    private let repositories: RepositoryStore
    private let log: Logger

    /// `volumes` are those that were just opened: no backup has begun yet.
    init(volumes: [Volume], repositories: RepositoryStore, log: Logger) {
        unsettled = volumes.flatMap { $0.frozenBitmaps() }
        self.repositories = repositories
        self.log = log
    }

    /// Tries until everything is settled or the task is cancelled.
    func run() async {
        while await !settleAll() {
            do { try await Task.sleep(for: .seconds(30)) } catch { return }
        }
    }

    /// Tries once. True if nothing is left.
    private func settleAll() async -> Bool {
        var left: [FrozenBitmap] = []
        for bitmap in unsettled {
            do throws(BlockError) {
                let outcome = try await settle(bitmap)
                log.notice("\(outcome)", metadata: Self.metadata(bitmap))
            } catch {
                log.warning(
                    "a bitmap stays frozen until its repository answers: \(error)",
                    metadata: Self.metadata(bitmap))
                left.append(bitmap)
            }
        }
        unsettled = left
        return left.isEmpty
    }

    private static func metadata(_ bitmap: FrozenBitmap) -> Logger.Metadata {
        [
            "volume": "\(bitmap.volume.name)", "bitmap": "\(bitmap.name)",
            "point": "\(bitmap.pending.pointID)",
        ]
    }

    private func settle(_ bitmap: FrozenBitmap) async throws(BlockError) -> String {
        let repository = try await repositories.repository(id: bitmap.pending.repositoryID)
        guard let manifest = try await wholePoint(of: bitmap, in: repository) else {
            try await bitmap.mergeBack()
            return "an interrupted backup was undone; nothing its bitmap recorded is lost"
        }
        try await bitmap.promote(PointRecord(manifest, repositoryID: repository.id))
        return "an interrupted backup had made its point; its bitmap continues it"
    }

    /// The manifest of the pending point. A damaged one is as good as none: merging back is always
    /// safe, since the bitmap then continues the point that it continued before.
    private func wholePoint(
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
            guard error.kind == .corrupt else { throw error }
            return nil
        }
    }
}

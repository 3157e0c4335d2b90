import BlockCore
import Catalog
import Repository
import Volumes

/// The level that a user asks for.
package enum BackupLevel: String, Sendable, CaseIterable {
    /// Incremental where that is possible, else full.
    case auto
    case full
    case incremental
}

/// What a backup of one volume shall be, decided before anything is touched.
struct BackupPlan: Sendable {
    var volume: Volume
    var bitmapName: String
    var granularityBytes: UInt64
    /// The point that an incremental continues; nil for a full.
    var parent: Manifest?
    var reason: PointReason
    var pointID: PointID

    var isIncremental: Bool { parent != nil }
}

extension PointReason {
    /// The bitmap's granularity does not fit the chain's digest cells.
    static let granularityChanged = PointReason(rawValue: "granularity-changed")
}

/// Decides level and reason of a backup.
///
/// A full depends on nothing. An incremental needs a bitmap that has recorded without a gap since
/// a point that is still in the repository, with its chain, and has the volume's present size.
struct BackupPlanner {
    let repository: AttachedRepository
    let level: BackupLevel
    let bitmapName: String?

    func plan(_ volume: Volume) async throws(BlockError) -> BackupPlan {
        let bitmap = chooseBitmap(of: volume)
        let granularity = bitmap.status?.granularityBytes ?? volume.defaultGranularityBytes
        let newest = try await newestPoint(of: volume)
        let decision = await decide(volume, bitmap.status, hasPoints: newest != nil)
        if level == .incremental, decision.parent == nil {
            throw BlockError(
                .invalid, "back up incrementally", on: volume.name,
                detail: "no increment is possible (\(decision.reason.rawValue)): "
                    + "use --level auto or full")
        }
        return BackupPlan(
            volume: volume, bitmapName: bitmap.name, granularityBytes: granularity,
            parent: decision.parent, reason: decision.reason,
            pointID: try PointID(after: newest))
    }

    /// The bitmap asked for; else the one that continues a point of this repository; else the one
    /// by the repository's name, which is made if need be.
    private func chooseBitmap(of volume: Volume) -> (name: String, status: BitmapStatus?) {
        let statuses = volume.bitmapStatuses()
        if let bitmapName {
            return (bitmapName, statuses.first { $0.name == bitmapName })
        }
        let status =
            statuses.first { $0.continues?.repositoryID == repository.id }
            ?? statuses.first { $0.name == repository.name }
        return (status?.name ?? repository.name, status)
    }

    private func decide(
        _ volume: Volume, _ bitmap: BitmapStatus?, hasPoints: Bool
    ) async -> (parent: Manifest?, reason: PointReason) {
        if level == .full { return (nil, .requested) }
        guard let bitmap else { return (nil, hasPoints ? .bitmapMissing : .first) }
        guard bitmap.inconsistentReason == nil else { return (nil, .bitmapInconsistent) }
        guard let continued = bitmap.continues, continued.repositoryID == repository.id,
            let pointID = PointID(continued.pointID)
        else { return (nil, hasPoints ? .bitmapMissing : .first) }
        guard let parent = try? await repository.repository.chain(for: pointID).last else {
            return (nil, .parentMissing)
        }
        guard parent.volume.lengthBytes == volume.lengthBytes else { return (nil, .resized) }
        let gridBytes = PointInTime.granuleBytes(forGranularity: bitmap.granularityBytes)
        guard parent.digest.gridBytes == gridBytes else { return (nil, .granularityChanged) }
        return (parent, .bitmap)
    }

    private func newestPoint(of volume: Volume) async throws(BlockError) -> PointID? {
        try await repository.repository.points()
            .filter { $0.manifest?.volume.uuid == volume.uuid }.map(\.id).max()
    }
}

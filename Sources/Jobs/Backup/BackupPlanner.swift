import BlockCore
import Catalog
import Repository
import Volumes

// How level, parent and reason of a backup are decided.
//
// A full depends on nothing. An increment stands on a point of the repository that is whole with
// all that it stands on itself, and takes what changed since then from one of two:
//
//   a bitmap      that has recorded without a gap since that very point
//   a comparison  the volume is read, and what has other digests than the point is stored
//
// The bitmap is asked first. If anything about it, or about the point that it continues, is in
// doubt, the newest whole point is compared with, and the doubt is the reason in the manifest. Only
// where there is no such point everything is stored again.

/// Decides level and reason of a backup.
struct BackupPlanner {
    let repository: AttachedRepository
    let level: BackupLevel
    let bitmapName: String?

    /// What following a bitmap led to.
    private enum Finding {
        /// The bitmap tells what changed since this point.
        case parent(Manifest)
        /// It does not; `keepsBitmap` if it goes on telling what changed since another one.
        case doubt(PointReason, String? = nil, keepsBitmap: Bool = false)
    }

    func plan(_ volume: Volume) async throws(BlockError) -> BackupPlan {
        let bitmap = chooseBitmap(of: volume)
        let points = try await repository.repository.points()
            .filter { $0.manifest?.volume.uuid == volume.uuid }
        var plan = BackupPlan(
            volume: volume, bitmapName: bitmap.name,
            granularityBytes: bitmap.status?.granularityBytes ?? volume.defaultGranularityBytes,
            pointID: try PointID(after: points.last?.id))
        guard level != .full else { return plan }
        switch await follow(bitmap.status, of: volume, hasPoints: !points.isEmpty) {
        case .parent(let parent):
            plan.depend(on: parent, by: .bitmap, level)
            plan.reason = .bitmap
        case .doubt(let reason, let explanation, let keepsBitmap):
            guard level != .incremental else { throw refusal(of: volume, reason, explanation) }
            if let parent = await newestWholePoint(of: plan, among: points) {
                plan.depend(on: parent, by: .comparison, level, keepsBitmap: keepsBitmap)
            }
            plan.reason = reason
            plan.explanation = explanation.map { String($0.prefix(1000)) }
        }
        return plan
    }

    /// The bitmap asked for; else one that continues a point of this repository, first of all the
    /// one by the repository's name, which is made if there is none.
    private func chooseBitmap(of volume: Volume) -> (name: String, status: BitmapStatus?) {
        let statuses = volume.bitmapStatuses()
        if let bitmapName {
            return (bitmapName, statuses.first { $0.name == bitmapName })
        }
        let continuing = statuses.filter { $0.continues?.repositoryID == repository.id }
        let status =
            continuing.first { $0.name == repository.name } ?? continuing.first
            ?? statuses.first { $0.name == repository.name }
        return (status?.name ?? repository.name, status)
    }

    /// Whether the bitmap leads to a point that an increment may stand on.
    private func follow(
        _ bitmap: BitmapStatus?, of volume: Volume, hasPoints: Bool
    ) async -> Finding {
        guard let bitmap else { return .doubt(hasPoints ? .bitmapMissing : .first) }
        if let reason = bitmap.inconsistentReason { return .doubt(.bitmapInconsistent, reason) }
        guard let continued = bitmap.continues, continued.repositoryID == repository.id,
            let pointID = PointID(continued.pointID)
        else { return .doubt(hasPoints ? .bitmapMissing : .first) }
        let parent: Manifest
        do throws(BlockError) {
            parent = try await repository.repository.checkChain(of: pointID)
        } catch {
            return .doubt(.parentMissing, error.description)
        }
        guard parent.volume.lengthBytes == volume.lengthBytes else {
            return .doubt(
                .resized,
                "\(parent.volume.lengthBytes) bytes at \(pointID), \(volume.lengthBytes) now")
        }
        guard parent.digest.gridBytes == Grid.cellBytes(granularityBytes: bitmap.granularityBytes)
        else { return .doubt(.granularityChanged) }
        guard level != .differential || parent.level == .full else {
            return .doubt(
                .bitmapMissing, "bitmap '\(bitmap.name)' continues \(pointID), which is no full",
                keepsBitmap: true)
        }
        return .parent(parent)
    }

    /// The newest point, or for a differential the newest full, that can be compared with.
    private func newestWholePoint(
        of plan: BackupPlan, among points: [PointSummary]
    ) async -> Manifest? {
        let gridBytes = Grid.cellBytes(granularityBytes: plan.granularityBytes)
        for point in points.reversed() {
            guard point.problem == nil, let manifest = point.manifest,
                manifest.digest.gridBytes == gridBytes,
                manifest.digest.algorithm == repository.repository.details.digestAlgorithm,
                level != .differential || manifest.level == .full
            else { continue }
            if let whole = try? await repository.repository.checkChain(of: point.id) {
                return whole
            }
        }
        return nil
    }

    private func refusal(
        of volume: Volume, _ reason: PointReason, _ explanation: String?
    ) -> BlockError {
        let why = explanation.map { "\(reason.rawValue): \($0)" } ?? reason.rawValue
        return BlockError(
            .invalid, "back up incrementally", on: volume.name,
            detail: "no increment is possible (\(why)): use --level auto or full")
    }
}

extension BackupPlan {
    /// Puts the point on top of `parent`.
    fileprivate mutating func depend(
        on parent: Manifest, by basis: BackupBasis, _ asked: BackupLevel,
        keepsBitmap: Bool = false
    ) {
        self.parent = parent
        self.basis = basis
        guard asked == .differential else {
            level = .incremental
            return
        }
        level = .differential
        ending = basis == .bitmap || keepsBitmap ? .keep : .restart
    }
}

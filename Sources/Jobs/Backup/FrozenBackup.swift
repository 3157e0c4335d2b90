import Bitmaps
import BlockCore
import Catalog
import Repository
package import Volumes

/// A backup that knows what its points shall be, before the freeze.
package struct PlannedBackup: Sendable {
    let backup: BackupJob
    let plans: [BackupPlan]
    /// The group of several volumes.
    let group: PointID?

    /// What is to be frozen at one instant.
    package var freezes: [FreezeRequest] { plans.map(freeze) }

    private func freeze(_ plan: BackupPlan) -> FreezeRequest {
        let parent = plan.basis == .bitmap ? plan.parent : nil
        let repositoryID = backup.repository.id
        return FreezeRequest(
            volume: plan.volume, bitmapName: plan.bitmapName,
            granularityBytes: plan.granularityBytes,
            point: PointReference(repositoryID: repositoryID, pointID: plan.pointID.text),
            parent: parent.map {
                PointReference(repositoryID: repositoryID, pointID: $0.point.text)
            },
            fleece: backup.fleece)
    }
}

/// A backup after its freeze: it is to be copied, or the freeze undone.
struct FrozenBackup: Sendable {
    let planned: PlannedBackup
    let volumes: [FrozenVolume]
    let instant: FreezeInstant

    init(_ planned: PlannedBackup, _ volumes: [FrozenVolume], _ instant: FreezeInstant) {
        self.planned = planned
        self.volumes = volumes
        self.instant = instant
    }

    /// What makes the points, one for each volume. With gates each stops before it publishes, and
    /// before that stands.
    func makings(_ job: Job, gates: [PointGates]? = nil) -> [PointMaking] {
        zip(planned.plans, volumes).enumerated().map { index, pair in
            let (plan, volume) = pair
            job.expect(volume.dirty?.dirtyBytes ?? plan.volume.lengthBytes)
            return PointMaking(
                plan: plan, frozen: volume, instant: instant, group: planned.group,
                repository: planned.backup.repository, compression: planned.backup.compression,
                job: job, gates: gates?[index])
        }
    }

    /// Says what came of the volumes, and publishes the group. Throws if there is no point at all.
    func end(
        _ outcomes: [Result<PointMaking.Made, BlockError>], _ job: Job
    ) async throws(BlockError) -> JobResult {
        var made: [PointMaking.Made] = []
        var failures: [JobFailure] = []
        for (plan, outcome) in zip(planned.plans, outcomes) {
            switch outcome {
            case .success(let point):
                made.append(point)
                if let failure = point.failure {
                    failures.append(JobFailure(subject: plan.volume.name, error: failure))
                }
            case .failure(let error):
                failures.append(JobFailure(subject: plan.volume.name, error: error))
            }
        }
        await leaveUnsettled()
        if made.isEmpty, let failure = failures.first { throw failure.error }
        if let group = planned.group, made.count == volumes.count {
            do throws(BlockError) {
                try await commit(group, of: made.map(\.manifest), job)
            } catch {
                failures.append(JobFailure(subject: "group \(group)", error: error))
            }
        }
        return .backup(made.map(\.outcome), failures: failures)
    }

    /// Undoes a freeze after which nothing was begun.
    func undo() async {
        for volume in volumes where volume.bitmap.isFrozen {
            try? await volume.bitmap.mergeBack(releasing: volume.point)
        }
        await leaveUnsettled()
    }

    /// What could not be ended is tried again by somebody else.
    func leaveUnsettled() async {
        for left in volumes.map(\.bitmap) where left.isFrozen {
            await planned.backup.leaveUnsettled(left)
        }
    }

    /// The last step of a group: with this manifest its points are one.
    private func commit(
        _ group: PointID, of members: [Manifest], _ job: Job
    ) async throws(BlockError) {
        let manifest = GroupManifest(
            group: group, time: instant.time, durationMicroseconds: instant.heldFor.microseconds,
            members: members)
        let repository = planned.backup.repository.repository
        try await Detachment.run(on: repository.location) { () async throws(BlockError) in
            try job.checkCancelled()
            try await repository.commitGroup(manifest)
        }
    }
}

extension PointMaking {
    func result() async -> Result<Made, BlockError> {
        do throws(BlockError) { return .success(try await run()) } catch { return .failure(error) }
    }
}

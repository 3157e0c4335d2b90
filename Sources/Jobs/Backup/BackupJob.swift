import Bitmaps
package import BlockCore
import Catalog
package import Repository
package import Volumes

// A backup of one or more volumes into a repository.
//
//   plan       level, reason and id of each point; is there room? Nothing has been touched yet
//   freeze     all volumes at one instant: bitmaps frozen, points in time installed
//   copy       what the point holds, read through the point in time, written to the repository
//   flush      the source: what is backed up must not be newer than what the source would show
//              after a power loss
//   commit     the repository publishes the manifest: the point exists
//   promote    the bitmap's successor continues the new point
//   group      of several volumes, once all have their points: a manifest that lists them
//
// A failure or cancellation before the commit leaves no point, and the bitmap with all it had. A
// failure of the promotion leaves a whole point and a frozen bitmap, which is settled later. The
// volumes are copied one after the other, and each has its own outcome: the points of those that
// worked stand, but only a group that is complete gets its manifest.
//
// A cancellation is looked for between any two steps and any two pieces. If the repository does not
// answer, it is left behind (`Detachment`): the bitmap is merged back without it.

/// What to back up, where to, and how.
package struct BackupJob: Sendable {
    package var volumes: [Volume]
    package var repository: AttachedRepository
    package var level: BackupLevel
    package var bitmapName: String?
    /// How clusters are stored; nil for as they are.
    package var compression: PointCompression?
    /// Bytes per second that the copy may read, 0 for no limit.
    package var speedBytes: UInt64
    package var fleece: FleeceLimits
    /// Whether a repository that has too little room for what is to come is refused.
    package var checksSpace: Bool
    /// Takes over a bitmap that a failure left frozen.
    package var leaveUnsettled: @Sendable (FrozenBitmap) async -> Void

    package init(
        volumes: [Volume], repository: AttachedRepository, level: BackupLevel,
        bitmapName: String? = nil, compression: PointCompression? = nil, speedBytes: UInt64 = 0,
        fleece: FleeceLimits, checksSpace: Bool = true,
        leaveUnsettled: @escaping @Sendable (FrozenBitmap) async -> Void
    ) {
        self.volumes = volumes
        self.repository = repository
        self.level = level
        self.bitmapName = bitmapName
        self.compression = compression
        self.speedBytes = speedBytes
        self.fleece = fleece
        self.checksSpace = checksSpace
        self.leaveUnsettled = leaveUnsettled
    }

    /// Makes the points. If some of several fail, the others are made nevertheless.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let plans = try await Detachment.run(on: repository.repository.location) {
            () async throws(BlockError) in
            try await makePlans(job)
        }
        try job.checkCancelled()
        let (frozen, instant) = try await Freeze.take(plans.map(freezeRequest))

        let group = volumes.count > 1 ? try PointID() : nil
        let limiter = RateLimiter(bytesPerSecond: speedBytes)
        var made: [PointMaking.Made] = []
        var failures: [JobFailure] = []
        for (plan, volume) in zip(plans, frozen) {
            job.expect(volume.dirty?.dirtyBytes ?? plan.volume.lengthBytes)
            let making = PointMaking(
                plan: plan, frozen: volume, instant: instant, group: group,
                repository: repository, compression: compression, limiter: limiter, job: job)
            do throws(BlockError) {
                let result = try await making.run()
                made.append(result)
                if let failure = result.failure {
                    failures.append(JobFailure(subject: plan.volume.name, error: failure))
                }
            } catch {
                failures.append(JobFailure(subject: plan.volume.name, error: error))
            }
        }
        for left in frozen.map(\.bitmap) where left.isFrozen { await leaveUnsettled(left) }
        if made.isEmpty, let failure = failures.first { throw failure.error }
        if let group, made.count == volumes.count {
            do throws(BlockError) {
                try await commit(group, of: made.map(\.manifest), instant, job)
            } catch {
                failures.append(JobFailure(subject: "group \(group)", error: error))
            }
        }
        return .backup(made.map(\.outcome), failures: failures)
    }

    private func makePlans(_ job: Job) async throws(BlockError) -> [BackupPlan] {
        let planner = BackupPlanner(repository: repository, level: level, bitmapName: bitmapName)
        var plans: [BackupPlan] = []
        for volume in volumes {
            try job.checkCancelled()
            plans.append(try await planner.plan(volume))
        }
        if checksSpace {
            try await SpaceCheck(repository: repository, isCompressed: compression != nil)
                .check(plans, job)
        }
        return plans
    }

    /// The last step of a group: with this manifest its points are one.
    private func commit(
        _ group: PointID, of members: [Manifest], _ instant: FreezeInstant, _ job: Job
    ) async throws(BlockError) {
        let manifest = GroupManifest(
            group: group, time: instant.time, durationMicroseconds: instant.heldFor.microseconds,
            members: members)
        try await Detachment.run(on: repository.repository.location) {
            [repository] () async throws(BlockError) in
            try job.checkCancelled()
            try await repository.repository.commitGroup(manifest)
        }
    }

    private func freezeRequest(_ plan: BackupPlan) -> FreezeRequest {
        let parent = plan.basis == .bitmap ? plan.parent : nil
        return FreezeRequest(
            volume: plan.volume, bitmapName: plan.bitmapName,
            granularityBytes: plan.granularityBytes,
            point: PointReference(
                repositoryID: repository.id, pointID: plan.pointID.text),
            parent: parent.map {
                PointReference(repositoryID: repository.id, pointID: $0.point.text)
            },
            fleece: fleece)
    }
}

import Bitmaps
package import BlockCore
import Catalog
import Repository
package import Volumes

// A backup of one or more volumes into a repository.
//
//   plan       level, reason and id of each point: nothing has been touched yet
//   freeze     all volumes at one instant: bitmaps frozen, points in time installed
//   copy       what the point holds, read through the point in time, written to the repository
//   flush      the source: what is backed up must not be newer than what the source would show
//              after a power loss
//   commit     the repository publishes the manifest: the point exists
//   promote    the bitmap's successor continues the new point
//
// A failure or cancellation before the commit leaves no point, and the bitmap with all it had. A
// failure of the promotion leaves a whole point and a frozen bitmap, which the next start of the
// agent promotes.

/// What to back up, where to, and how.
package struct BackupJob: Sendable {
    package var volumes: [Volume]
    package var repository: AttachedRepository
    package var level: BackupLevel
    package var bitmapName: String?
    /// Bytes per second that the copy may read, 0 for no limit.
    package var speedBytes: UInt64
    package var fleece: FleeceLimits

    package init(
        volumes: [Volume], repository: AttachedRepository, level: BackupLevel,
        bitmapName: String? = nil, speedBytes: UInt64 = 0, fleece: FleeceLimits
    ) {
        self.volumes = volumes
        self.repository = repository
        self.level = level
        self.bitmapName = bitmapName
        self.speedBytes = speedBytes
        self.fleece = fleece
    }

    /// Makes the points. If some of several fail, the others are made nevertheless.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let planner = BackupPlanner(repository: repository, level: level, bitmapName: bitmapName)
        var plans: [BackupPlan] = []
        for volume in volumes { plans.append(try await planner.plan(volume)) }
        try job.checkCancelled()
        let (frozen, instant) = try await Freeze.take(plans.map(freezeRequest))

        let limiter = RateLimiter(bytesPerSecond: speedBytes)
        var outcomes: [BackupOutcome] = []
        var failures: [JobFailure] = []
        for (plan, volume) in zip(plans, frozen) {
            job.expect(volume.dirty?.dirtyBytes ?? plan.volume.lengthBytes)
            do throws(BlockError) {
                outcomes.append(
                    try await PointMaking(
                        plan: plan, frozen: volume, instant: instant, repository: repository,
                        limiter: limiter, job: job
                    ).run())
            } catch {
                failures.append(JobFailure(subject: plan.volume.name, error: error))
            }
        }
        if outcomes.isEmpty, let failure = failures.first { throw failure.error }
        return .backup(outcomes, failures: failures)
    }

    private func freezeRequest(_ plan: BackupPlan) -> FreezeRequest {
        FreezeRequest(
            volume: plan.volume, bitmapName: plan.bitmapName,
            granularityBytes: plan.granularityBytes,
            point: PointReference(
                repositoryID: repository.id, pointID: plan.pointID.text),
            parent: plan.parent.map {
                PointReference(repositoryID: repository.id, pointID: $0.point.text)
            },
            fleece: fleece)
    }
}

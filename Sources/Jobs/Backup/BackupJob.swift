package import BlockCore
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
    package var fleece: FleeceLimits
    /// Whether a repository that has too little room for what is to come is refused.
    package var checksSpace: Bool
    /// Takes over a bitmap that a failure left frozen.
    package var leaveUnsettled: @Sendable (FrozenBitmap) async -> Void

    package init(
        volumes: [Volume], repository: AttachedRepository, level: BackupLevel,
        bitmapName: String? = nil, compression: PointCompression? = nil, fleece: FleeceLimits,
        checksSpace: Bool = true,
        leaveUnsettled: @escaping @Sendable (FrozenBitmap) async -> Void
    ) {
        self.volumes = volumes
        self.repository = repository
        self.level = level
        self.bitmapName = bitmapName
        self.compression = compression
        self.fleece = fleece
        self.checksSpace = checksSpace
        self.leaveUnsettled = leaveUnsettled
    }

    /// Makes the points. If some of several fail, the others are made nevertheless.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let frozen = try await freeze(try await plan(job))
        var outcomes: [Result<PointMaking.Made, BlockError>] = []
        for making in frozen.makings(job) { outcomes.append(await making.result()) }
        return try await frozen.end(outcomes, job)
    }

    /// Decides what the points shall be. Nothing has been touched yet.
    package func plan(_ job: Job) async throws(BlockError) -> PlannedBackup {
        let plans = try await Detachment.run(on: repository.repository.location) {
            () async throws(BlockError) in
            try await makePlans(job)
        }
        try job.checkCancelled()
        return PlannedBackup(
            backup: self, plans: plans, group: plans.count > 1 ? try PointID() : nil)
    }

    private func freeze(_ planned: PlannedBackup) async throws(BlockError) -> FrozenBackup {
        let (volumes, instant) = try await Freeze.take(planned.freezes)
        return FrozenBackup(planned, volumes, instant)
    }

    private func makePlans(_ job: Job) async throws(BlockError) -> [BackupPlan] {
        let planner = BackupPlanner(
            repository: repository, level: level, bitmapName: bitmapName)
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
}

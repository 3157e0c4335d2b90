import BlockCore
import Catalog
import Control
import Jobs
import Repository
import Volumes

// A transaction: each action is checked and prepared in its order, which changes nothing; then all of
// them take effect at one quiet instant of all volumes concerned (`QuietAction`), and then the jobs
// that they start begin, and those that they end conclude. What fails before the instant, or at it,
// leaves nothing behind.

extension Agent {
    func registerTransactionCommand(in table: inout CommandTable) {
        table.on(Transaction.self) { arguments in
            try await run(arguments)
            return Nothing()
        }
    }

    /// What a backup is to be run with, and its work.
    func backup(
        _ arguments: VolumeBackup.Arguments, isGrouped: Bool = false
    ) async throws -> (JobOptions, BackupBody) {
        guard !arguments.volumes.isEmpty, Set(arguments.volumes).count == arguments.volumes.count
        else { throw ControlError.generic("Parameter 'volumes' names no volume, or one twice") }
        var sources: [Volume] = []
        for name in arguments.volumes { sources.append(try await volumes.volume(name)) }
        // It may hang: only the job waits for it.
        let record = try await repositories.record(arguments.repository)
        let level = arguments.level.flatMap { Jobs.BackupLevel(rawValue: $0.rawValue) } ?? .auto
        let targets = sources
        let options = JobOptions(
            copying: .backup, arguments, device: targets.count == 1 ? targets[0].name : nil,
            speedBytes: arguments.speed ?? 0)
        let body = BackupBody(
            waitsWithPoints: isGrouped || !options.autoFinalize,
            open: { [self] () async throws(BlockError) in
                let repository = try await repositories.open(record.name)
                await recovery.settle(targets, in: record.id)
                return BackupJob(
                    volumes: targets, repository: repository, level: level,
                    bitmapName: arguments.bitmap,
                    compression: arguments.compress.flatMap {
                        PointCompression(rawValue: $0.rawValue)
                    },
                    fleece: fleece, checksSpace: arguments.checkSpace ?? true,
                    leaveUnsettled: { await recovery.add($0) })
            },
            finish: { [copies] in await copies.put(into: $0.repository) },
            failed: { [repositories] in await repositories.openAnew(record.name) })
        return (options, body)
    }

    private func run(_ arguments: Transaction.Arguments) async throws {
        let isGrouped = arguments.properties?.completionMode == .grouped
        if isGrouped, let other = arguments.actions.first(where: { !$0.isGroupable }) {
            throw ControlError.notGroupable(other.kind.rawValue)
        }
        var preparation = TransactionPreparation(
            group: isGrouped ? jobs.newTransaction() : nil)
        do {
            for action in arguments.actions {
                if case .abort = action { try await abort(after: preparation.actions) }
                try await prepare(action, &preparation)
            }
        } catch {
            await QuietTransaction.withdraw(preparation.actions)
            throw error
        }
        try await QuietTransaction.perform(preparation.actions)
    }

    /// Fails, with what is wrong with the actions before if anything is.
    private func abort(after actions: [QuietAction]) async throws {
        let abortion = BlockError(.cancelled, "commit", on: "the transaction")
        guard let volume = actions.flatMap(\.steps).first?.volume else {
            throw ControlError.transactionAborted
        }
        do throws(BlockError) {
            let refusal = QuietStep.refuse(volume, abortion)
            try await QuietTransaction.run(actions.flatMap(\.steps) + [refusal])
        } catch {
            if error != abortion { throw error }
        }
        throw ControlError.transactionAborted
    }

    private func prepare(
        _ action: TransactionAction, _ preparation: inout TransactionPreparation
    ) async throws {
        switch action {
        case .abort: return
        case .blockDirtyBitmapAdd, .blockDirtyBitmapRemove, .blockDirtyBitmapClear,
            .blockDirtyBitmapEnable, .blockDirtyBitmapDisable, .blockDirtyBitmapMerge:
            preparation.actions.append(QuietAction([try await step(action)]))
        case .blockdevBackup(let data):
            preparation.actions.append(
                try await prepare(TargetBackupRequest(data), in: preparation.group).action)
        case .driveBackup(let data):
            preparation.actions.append(
                try await prepare(TargetBackupRequest(data), in: preparation.group).action)
        case .blockdevMirror(let data):
            let request = MirrorRequest(data)
            preparation.actions.append(
                try await prepare(request, over: preparation.snapshot(of: request.device)).action)
        case .driveMirror(let data):
            let request = MirrorRequest(data)
            preparation.actions.append(
                try await prepare(request, over: preparation.snapshot(of: request.device)).action)
        case .blockdevSnapshotSync(let data):
            let snapshot = try await snapshot(data)
            preparation.snapshots.append(snapshot)
            preparation.actions.append(snapshot.action)
        case .driveReopen(let data):
            preparation.actions.append(try await reopen(data))
        case .jobComplete(let job):
            preparation.actions.append(try await jobs.ending(of: job.id, pivots: true))
        case .jobCancel(let job):
            preparation.actions.append(try await jobs.givingUp(job.id))
        case .blockJobCancel(let data):
            preparation.actions.append(try await cancellation(data))
        case .volumeBackup(let data):
            let backup = try await prepare(data, preparation.group)
            preparation.actions.append(backup)
            try checkFreezes(preparation.actions)
        }
    }

    private func cancellation(_ data: BlockJobCancel.Arguments) async throws -> QuietAction {
        do {
            let isReady = try await jobs.job(data.device).status.isReady
            if isReady, data.force != true {
                return try await jobs.ending(of: data.device, pivots: false)
            }
            return try await jobs.givingUp(data.device)
        } catch JobRefusal.noSuchJob(let id) {
            throw ControlError.noSuchBlockJob(id)
        }
    }

    private func prepare(
        _ arguments: VolumeBackup.Arguments, _ group: JobTransaction?
    ) async throws -> QuietAction {
        let (options, body) = try await backup(arguments, isGrouped: group != nil)
        let job = try await jobs.create(options, body, in: group ?? jobs.newTransaction())
        do {
            let plan = try await body.plan(job)
            var action = QuietAction(plan.freezes.map { .freeze($0) })
            action.happened = { [jobs] outcome in
                let volumes = plan.freezes.map(\.volume)
                body.take(plan, outcome.frozen(of: volumes), outcome.instant)
                if await !jobs.begin(job) { await body.abort(job) }
            }
            action.withdraw = { [jobs] in await jobs.withdraw(job) }
            return action
        } catch {
            await jobs.withdraw(job)
            throw error
        }
    }

    private func checkFreezes(_ actions: [QuietAction]) throws {
        var names: Set<String> = []
        for step in actions.flatMap(\.steps) where step.isFreeze {
            guard names.insert(step.volume.name).inserted else {
                throw ControlError.generic(
                    "volume \(step.volume.name) is backed up twice in one transaction")
            }
        }
    }

    private func step(_ action: TransactionAction) async throws -> QuietStep {
        switch action {
        case .blockDirtyBitmapAdd(let bitmap):
            .change(
                try await volumes.volume(bitmap.node),
                .add(
                    bitmap.name, granularityBytes: bitmap.granularity.map(UInt64.init),
                    isRecording: !(bitmap.disabled ?? false)))
        case .blockDirtyBitmapRemove(let bitmap):
            .change(try await node(bitmap.node), .remove(bitmap.name))
        case .blockDirtyBitmapClear(let bitmap):
            .change(try await node(bitmap.node), .clear(bitmap.name))
        case .blockDirtyBitmapEnable(let bitmap):
            .change(try await node(bitmap.node), .setRecording(bitmap.name, true))
        case .blockDirtyBitmapDisable(let bitmap):
            .change(try await node(bitmap.node), .setRecording(bitmap.name, false))
        case .blockDirtyBitmapMerge(let merge):
            .change(
                try await node(merge.node),
                .merge(try await sources(of: merge), into: merge.target))
        default: preconditionFailure("no change of a bitmap")
        }
    }
}

/// What has been prepared of a transaction.
private struct TransactionPreparation {
    /// What the jobs of it end with, if they end together.
    let group: JobTransaction?
    var actions: [QuietAction] = []
    var snapshots: [PreparedSnapshot] = []

    /// The overlay that a volume is going to have.
    func snapshot(of volume: String) -> PreparedSnapshot? {
        snapshots.last { $0.volume.name == volume }
    }
}

extension TransactionAction {
    /// Whether it starts a job that can wait for others to end with it.
    fileprivate var isGroupable: Bool {
        switch kind {
        case .blockdevBackup, .driveBackup, .volumeBackup: true
        default: false
        }
    }
}

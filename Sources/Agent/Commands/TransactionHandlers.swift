import BlockCore
import Catalog
import Control
import Jobs
import Repository
import Volumes

// A transaction: everything is prepared, backups are planned, then all of it takes effect at one quiet
// instant of all volumes concerned (`QuietTransaction`), and then its jobs start. What fails before
// the instant, or at it, leaves nothing behind.

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
            id: arguments.jobID, type: .backup, device: targets.count == 1 ? targets[0].name : nil,
            autoFinalize: arguments.autoFinalize ?? true,
            autoDismiss: arguments.autoDismiss ?? true, speedBytes: arguments.speed ?? 0,
            onSourceError: ErrorPolicy(arguments.onSourceError),
            onTargetError: ErrorPolicy(arguments.onTargetError))
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
        if isGrouped, let other = arguments.actions.first(where: { !$0.isJob }) {
            throw ControlError.notGroupable(other.kind.rawValue)
        }
        let group = isGrouped ? jobs.newTransaction() : nil
        var steps: [QuietStep] = []
        var backups: [PreparedBackup] = []
        do {
            for action in arguments.actions {
                if case .abort = action { try await abort(after: steps) }
                if case .volumeBackup(let arguments) = action {
                    let backup = try await prepare(arguments, group)
                    backups.append(backup)
                    backup.plan.freezes.forEach { steps.append(.freeze($0)) }
                } else {
                    steps.append(try await step(action))
                }
            }
            try checkFreezes(steps)
            var (frozen, instant) = try await QuietTransaction.run(steps)
            for backup in backups {
                let count = backup.plan.freezes.count
                backup.body.take(backup.plan, Array(frozen.prefix(count)), instant)
                frozen.removeFirst(count)
            }
        } catch {
            for backup in backups { await jobs.withdraw(backup.job) }
            throw error
        }
        for backup in backups { await jobs.begin(backup.job) }
    }

    /// Fails, with what is wrong with the steps before if anything is.
    private func abort(after steps: [QuietStep]) async throws -> Never {
        let abortion = BlockError(.cancelled, "commit", on: "the transaction")
        if let volume = steps.first?.volume {
            do throws(BlockError) {
                _ = try await QuietTransaction.run(steps + [.refuse(volume, abortion)])
            } catch {
                if error != abortion { throw error }
            }
        }
        throw ControlError.transactionAborted
    }

    private struct PreparedBackup {
        let job: Job
        let body: BackupBody
        let plan: PlannedBackup
    }

    private func prepare(
        _ arguments: VolumeBackup.Arguments, _ group: JobTransaction?
    ) async throws -> PreparedBackup {
        let (options, body) = try await backup(arguments, isGrouped: group != nil)
        let job = try await jobs.create(options, body, in: group ?? jobs.newTransaction())
        do {
            return PreparedBackup(job: job, body: body, plan: try await body.plan(job))
        } catch {
            await jobs.withdraw(job)
            throw error
        }
    }

    private func checkFreezes(_ steps: [QuietStep]) throws {
        var names: Set<String> = []
        for case .freeze(let request) in steps where !names.insert(request.volume.name).inserted {
            throw ControlError.generic(
                "volume \(request.volume.name) is backed up twice in one transaction")
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
        case .abort, .volumeBackup:
            preconditionFailure("no step of a quiet instant")
        }
    }
}

extension TransactionAction {
    /// Whether it starts a job.
    fileprivate var isJob: Bool { kind == .volumeBackup }
}

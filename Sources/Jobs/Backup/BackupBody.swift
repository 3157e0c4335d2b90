package import BlockCore
import Synchronization
package import Volumes

// A backup as a job that may have to wait with its points.
//
// If the job ends by itself and alone, each point is published as soon as it has its data. Else each
// waits at a gate with all its data durable: the gates are opened when the job is finalized, or closed
// if it is given up, which undoes everything. From the moment they open a cancellation comes too late.

/// Runs a backup, of volumes that a transaction may have frozen already.
package final class BackupBody: JobBody {
    private struct Making {
        let gate: CommitGate
        let task: Task<Result<PointMaking.Made, BlockError>, Never>
    }

    private struct State {
        var frozen: FrozenBackup?
        var makings: [Making] = []
        var isBegun = false
    }

    private let waitsWithPoints: Bool
    private let open: @Sendable () async throws(BlockError) -> BackupJob
    private let finish: @Sendable (BackupJob) async -> Void
    private let failed: @Sendable () async -> Void
    private let state = Mutex(State())

    /// `open` gives the backup, once the job runs: to open its repository may take long. `finish` is
    /// called when there are points, `failed` when the job fails or is given up. With
    /// `waitsWithPoints` they are published only when the job is finalized.
    package init(
        waitsWithPoints: Bool, open: @escaping @Sendable () async throws(BlockError) -> BackupJob,
        finish: @escaping @Sendable (BackupJob) async -> Void,
        failed: @escaping @Sendable () async -> Void = {}
    ) {
        self.waitsWithPoints = waitsWithPoints
        self.open = open
        self.finish = finish
        self.failed = failed
    }

    package var standsOnceRun: Bool { !waitsWithPoints }

    /// Plans the backup ahead of its job, for a transaction that freezes its volumes.
    package func plan(_ job: Job) async throws(BlockError) -> PlannedBackup {
        try await open().plan(job)
    }

    /// Takes over what a transaction has frozen.
    package func take(
        _ planned: PlannedBackup, _ volumes: [FrozenVolume], _ instant: FreezeInstant
    ) {
        let frozen = FrozenBackup(planned, volumes, instant)
        state.withLock { $0.frozen = frozen }
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let frozen = try await freeze(job)
        state.withLock { $0.isBegun = true }
        guard waitsWithPoints else {
            var outcomes: [Result<PointMaking.Made, BlockError>] = []
            for making in frozen.makings(job) { outcomes.append(await making.result()) }
            let result = try await frozen.end(outcomes, job)
            await finish(frozen.planned.backup)
            return result
        }
        let gates = frozen.volumes.map { _ in CommitGate() }
        for (making, gate) in zip(frozen.makings(job, gates: gates), gates) {
            let task = Task {
                let result = await making.result()
                gate.reach()
                return result
            }
            state.withLock { $0.makings.append(Making(gate: gate, task: task)) }
            await withTaskCancellationHandler {
                await gate.waitUntilReached()
            } onCancel: {
                task.cancel()
            }
            try job.checkCancelled()
        }
        if !gates.contains(where: \.isHeld) {
            var outcomes: [Result<PointMaking.Made, BlockError>] = []
            for making in state.withLock({ $0.makings }) {
                outcomes.append(await making.task.value)
            }
            return try await frozen.end(outcomes, job)
        }
        return .backup([], failures: [])
    }

    package func prepare(_ job: Job) async throws(BlockError) {
        guard waitsWithPoints, let frozen = state.withLock({ $0.frozen }) else { return }
        guard job.passBeyondCancel() else {
            throw BlockError(.cancelled, "publish the points", on: "job \(job.id)")
        }
        let makings = state.withLock { $0.makings }
        for making in makings { making.gate.decide(true) }
        var outcomes: [Result<PointMaking.Made, BlockError>] = []
        for making in makings { outcomes.append(await making.task.value) }
        job.replaceResult(try await frozen.end(outcomes, job))
    }

    package func commit(_ job: Job) async {
        guard waitsWithPoints, let frozen = state.withLock({ $0.frozen }) else { return }
        await finish(frozen.planned.backup)
    }

    package func abort(_ job: Job) async {
        await undo()
        await failed()
    }

    private func undo() async {
        let (frozen, makings, isBegun) = state.withLock { ($0.frozen, $0.makings, $0.isBegun) }
        guard let frozen, waitsWithPoints || !isBegun else { return }
        for making in makings {
            making.gate.decide(false)
            making.task.cancel()
        }
        for making in makings { _ = await making.task.value }
        await frozen.undo()
    }

    private func freeze(_ job: Job) async throws(BlockError) -> FrozenBackup {
        if let frozen = state.withLock({ $0.frozen }) { return frozen }
        let planned = try await plan(job)
        let (volumes, instant) = try await Freeze.take(planned.freezes)
        let frozen = FrozenBackup(planned, volumes, instant)
        state.withLock { $0.frozen = frozen }
        return frozen
    }
}

package import BlockCore
import Synchronization
package import Volumes

// A backup as a job that may have to wait with its points.
//
// If the job ends by itself and alone, each point is published as soon as it has its data. Else each
// waits at two gates:
//
//   publishing   with all its data durable, until the job is finalized, or given up
//   standing     published, until all jobs of the transaction have published theirs, or one could not:
//                then it is taken back
//
// Only then do bitmaps follow. From the moment the first gate opens a cancellation comes too late. A
// crash between the two leaves what was published.

/// Runs a backup, of volumes that a transaction may have frozen already.
package final class BackupBody: JobBody {
    private struct Making {
        let gates: PointGates
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
        let gates = frozen.volumes.map { _ in PointGates() }
        for (making, gates) in zip(frozen.makings(job, gates: gates), gates) {
            let task = Task {
                let result = await making.result()
                gates.publishing.reach()
                gates.standing.reach()
                return result
            }
            state.withLock { $0.makings.append(Making(gates: gates, task: task)) }
            await withTaskCancellationHandler {
                await gates.publishing.waitUntilReached()
            } onCancel: {
                task.cancel()
            }
            try job.checkCancelled()
        }
        if !gates.contains(where: \.publishing.isHeld) {
            return try await frozen.end(
                await outcomes(of: state.withLock { $0.makings }), job)
        }
        return .backup([], failures: [])
    }

    package func prepare(_ job: Job) async throws(BlockError) {
        guard waitsWithPoints, let frozen = state.withLock({ $0.frozen }) else { return }
        guard job.passBeyondCancel() else {
            throw BlockError(.cancelled, "publish the points", on: "job \(job.id)")
        }
        let makings = state.withLock { $0.makings }
        for making in makings { making.gates.publishing.decide(true) }
        for making in makings { await making.gates.standing.waitUntilReached() }
        if makings.contains(where: \.gates.standing.isHeld) { return }
        // There is no point at all: it says why.
        job.replaceResult(try await frozen.end(await outcomes(of: makings), job))
    }

    private func outcomes(
        of makings: [Making]
    ) async -> [Result<PointMaking.Made, BlockError>] {
        var outcomes: [Result<PointMaking.Made, BlockError>] = []
        for making in makings { outcomes.append(await making.task.value) }
        return outcomes
    }

    package func commit(_ job: Job) async {
        guard waitsWithPoints, let frozen = state.withLock({ $0.frozen }) else { return }
        let makings = state.withLock { $0.makings }
        if makings.contains(where: \.gates.standing.isHeld) {
            for making in makings { making.gates.standing.decide(true) }
            do throws(BlockError) {
                job.replaceResult(try await frozen.end(await outcomes(of: makings), job))
            } catch {
                job.noteFailure(error)
            }
        }
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
            making.gates.publishing.decide(false)
            making.gates.standing.decide(false)
            // To take a published point back must not be cut short.
            if !making.gates.standing.isHeld { making.task.cancel() }
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

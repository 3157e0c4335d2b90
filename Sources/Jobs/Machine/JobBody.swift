package import BlockCore

// The course of a job, and what of its body is called when:
//
//   run       the work; until it returns, the job is running or ready, or paused in one of them
//   prepare   all of its transaction have returned, and nobody or somebody (`finalize`) is asked:
//             the last that may fail
//   commit    all of its transaction are prepared: nothing can undo it any more
//   abort     instead of `commit`, if the job or one of its transaction failed or was cancelled
//   clean     after either
//
// `abort` and `clean` are called even if `run` never was. None of the last four is interrupted by a
// cancellation.

/// The work of a job.
package protocol JobBody: Sendable {
    /// Does the work. It should pass `pausePoint` often, and end soon once that throws.
    func run(_ job: Job) async throws(BlockError) -> JobResult
    func prepare(_ job: Job) async throws(BlockError)
    /// What fails here can only be told: `Job.noteFailure`.
    func commit(_ job: Job) async
    func abort(_ job: Job) async
    func clean(_ job: Job) async

    /// Whether what `run` has returned stands even if a forced cancel came meanwhile. If not, it is
    /// undone by `abort`.
    var standsOnceRun: Bool { get }
    /// Whether `change` is understood.
    var isChangeable: Bool { get }
    /// What it is doing at the moment, if it is a mirror.
    var mirrorStatus: MirrorStatus? { get }
}

extension JobBody {
    package func prepare(_ job: Job) async throws(BlockError) {}
    package func commit(_ job: Job) async {}
    package func abort(_ job: Job) async {}
    package func clean(_ job: Job) async {}
    package var standsOnceRun: Bool { false }
    package var isChangeable: Bool { false }
    package var mirrorStatus: MirrorStatus? { nil }
}

/// Work that ends with everything done.
struct WholeBody: JobBody {
    let work: @Sendable (Job) async throws(BlockError) -> JobResult

    func run(_ job: Job) async throws(BlockError) -> JobResult { try await work(job) }

    var standsOnceRun: Bool { true }
}

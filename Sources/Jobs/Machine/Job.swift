package import BlockCore
package import Foundation

// A job is a table of states and an account of what was asked of it. Its work is a `JobBody`, which
// knows the job as somebody who can make it wait: `Job+Body`. What users ask is in `Job+Verbs`, how it
// ends in `Job+Ending`; what several jobs decide together is `JobTransaction`'s matter.
//
// Everything is decided with the lock held, and events are told under it too: so they come in the
// order of what they tell, and a job that was given up at the instant of its success is one of both.

/// A long operation that can be watched, paused and cancelled. Its progress is in bytes.
package final class Job: Sendable {
    package let id: String
    package let options: JobOptions
    package let created = Date()
    let body: any JobBody
    private let state: HostMutex<JobState>
    private let report: @Sendable (JobEvent) -> Void
    private let record: @Sendable (JobHistory) async -> Void

    package var type: JobType { options.type }

    init(
        id: String, options: JobOptions, body: any JobBody,
        report: @escaping @Sendable (JobEvent) -> Void,
        record: @escaping @Sendable (JobHistory) async -> Void
    ) {
        self.id = id
        self.options = options
        self.body = body
        self.report = report
        self.record = record
        state = HostMutex(JobState(options))
        update { move(&$0, to: .created) }
    }

    package var status: JobStatus { look(\.status) }

    /// Bytes done and bytes in all; the latter may grow while the job finds out.
    package var progress: (currentBytes: UInt64, totalBytes: UInt64) {
        look { ($0.currentBytes, $0.totalBytes) }
    }

    /// Bytes per second that it may copy, 0 for no limit.
    package var speedBytes: UInt64 { look(\.speedBytes) }

    /// Whether a user, or an error that waits for one, has paused it, even if it has not come to
    /// rest yet.
    package var isPaused: Bool { look(\.isUserPaused) }

    /// Whether it has something to do at the moment.
    package var isBusy: Bool {
        look { $0.status.isAtWork && $0.isStarted && $0.parkedCount + $0.idleCount < $0.taskCount }
    }

    /// What it waits for.
    package var ioStatus: JobIOStatus { look(\.ioStatus) }

    /// Why the job failed, once it has.
    package var error: String? { look(\.error) }

    /// What it failed with, unless it was cancelled.
    package var failure: BlockError? { look(\.failure) }

    /// What came of it, once it has succeeded.
    package var result: JobResult? { look { $0.error == nil ? $0.result : nil } }

    /// Whether it has been given up by force.
    package var isCancelled: Bool { look(\.isCancelled) }

    /// Whether it has been given up because the agent ends.
    package var isInterrupted: Bool { look(\.isInterrupted) }

    /// What it is doing at the moment, if it is a mirror.
    package var mirror: MirrorStatus? { body.mirrorStatus }

    /// How it goes on after a restart of the agent; nil if it does not.
    package var resumption: JobResumption? { look(\.resumption) }

    /// Waits until the job has concluded.
    package func wait() async { await wait { $0.isSettled } }

    // MARK: For the rest of the machine

    /// Has the catalog know the job as it is; that it has `ended` is never forgotten again.
    func remember(ended: Date? = nil) async { await record(JobHistory(self, ended: ended)) }

    /// Reads the state.
    func look<R>(_ body: (inout JobState) -> R) -> R { state.withLock(body) }

    /// Changes the state, and has everybody look again who waits for a change.
    func update<R, E: Error>(_ body: (inout JobState) throws(E) -> R) throws(E) -> R {
        let (result, waiters) = try state.withLock { (state) throws(E) in
            let result = try body(&state)
            defer { state.waiters = [:] }
            return (result, state.waiters.values)
        }
        for waiter in waiters { waiter.resume() }
        return result
    }

    /// Returns once `isOver` says so, which is asked now and after each change, or at `deadline`.
    func wait(
        until deadline: ContinuousClock.Instant? = nil, for isOver: (inout JobState) -> Bool
    ) async {
        while !look(isOver) {
            if let deadline, ContinuousClock.now >= deadline { return }
            let number = look { state in
                state.lastWaiter += 1
                return state.lastWaiter
            }
            let alarm = deadline.map { deadline in
                Task {
                    do { try await Task.sleep(until: deadline, clock: .continuous) } catch {
                        return
                    }
                    look { $0.waiters.removeValue(forKey: number) }?.resume()
                }
            }
            await withCheckedContinuation { continuation in
                let isLate = look { state in
                    if isOver(&state) || deadline.map({ ContinuousClock.now >= $0 }) == true {
                        return true
                    }
                    state.waiters[number] = continuation
                    return false
                }
                if isLate { continuation.resume() }
            }
            alarm?.cancel()
        }
    }

    /// Goes into another state; called with the lock held.
    func move(_ state: inout JobState, to status: JobStatus) {
        let previous = state.status
        precondition(
            previous.successors.contains(status),
            "job \(id) cannot go from \(previous.rawValue) to \(status.rawValue)")
        state.status = status
        if status != previous { report(.statusChange(id: id, status)) }
    }

    /// Tells an event; called with the lock held.
    func tell(_ event: JobEvent) { report(event) }

    /// The job as it is now; called with the lock held.
    func moment(_ state: JobState) -> JobMoment {
        JobMoment(
            id: id, type: type, totalBytes: state.totalBytes, currentBytes: state.currentBytes,
            speedBytes: state.speedBytes)
    }
}

import Control
import Synchronization

// Waiting for a job: the agent's events wake the wait at once, and a poll at a steady pace shows
// progress and makes up for any event that was lost. A job that is dismissed by itself is known by the
// event of its end, if that came while it was waited for. Ctrl-C asks the agent to cancel the job and
// goes on waiting until it has concluded; a second one ends the waiting even if the agent hangs.
// The watch for it begins before the job is started, so that no job is left behind unnoticed.

/// Follows one job to its end.
struct JobFollower {
    let agent: AgentSession
    /// Whether Ctrl-C cancels the job, or only the waiting.
    var cancelsOnInterrupt = true
    /// Whether a job that is ready has been waited for long enough.
    var endsWhenReady = false

    /// What the parts of one wait share.
    private final class Wait: Sendable {
        let interruptCount = Atomic<Int>(0)
        let wakeups: AsyncStream<Void>
        let wake: AsyncStream<Void>.Continuation
        private let ends = Mutex<[String: JobInfo]>([:])

        init() {
            (wakeups, wake) = AsyncStream.makeStream(bufferingPolicy: .bufferingNewest(1))
        }

        /// Keeps what an event says of the end of a job.
        func note(_ event: QMPEvent) {
            guard
                event.name == ControlEvent.blockJobCompleted.rawValue
                    || event.name == ControlEvent.blockJobCancelled.rawValue,
                let end = try? event.data?.decoded(as: BlockJobMoment.self)
            else { return }
            let isCancelled = event.name == ControlEvent.blockJobCancelled.rawValue
            let job = JobInfo(
                id: end.device, type: end.type, status: .concluded, currentProgress: end.offset,
                totalProgress: end.len,
                error: end.error ?? (isCancelled ? "the job was cancelled" : nil))
            ends.withLock { $0[job.id] = job }
        }

        /// The end of a job that is gone, if it was told while this waits. The event has come before
        /// the answer that the job is gone, but whoever reads events may be a moment behind.
        func end(of id: String) async -> JobInfo? {
            if ends.withLock({ $0[id] }) == nil { try? await Task.sleep(for: .milliseconds(100)) }
            return ends.withLock { $0[id] }
        }
    }

    /// Starts a job, waits until it has concluded and returns what it came to. A job that was
    /// cancelled by Ctrl-C is returned as any other; if that ended the waiting, throws a failure
    /// with the code of an interruption.
    func follow(
        _ start: @escaping @Sendable () async throws -> String
    ) async throws -> (job: JobInfo, wasInterrupted: Bool) {
        let wait = Wait()
        let interrupts = Interrupts.stream()
        return try await withThrowingTaskGroup(of: JobInfo?.self) { group in
            group.addTask { try await attend(try await start(), wait) }
            group.addTask { [client = agent.client] in
                for try await event in client.events {
                    wait.note(event)
                    wait.wake.yield()
                }
                return nil
            }
            group.addTask { [pause = agent.console.showsProgress ? 250 : 1000] in
                while !Task.isCancelled {
                    try await Task.sleep(for: .milliseconds(pause))
                    wait.wake.yield()
                }
                return nil
            }
            group.addTask { [cancelsOnInterrupt] in
                for await _ in interrupts {
                    let count = wait.interruptCount.add(1, ordering: .relaxed).newValue
                    guard cancelsOnInterrupt, count == 1 else {
                        throw CommandFailure(
                            .interrupted, "interrupted: the job may go on, see `tidemark job list`")
                    }
                    wait.wake.yield()
                }
                return nil
            }
            defer { group.cancelAll() }
            while let outcome = try await group.next() {
                guard let job = outcome else { continue }
                return (job, wait.interruptCount.load(ordering: .relaxed) > 0)
            }
            throw CancellationError()
        }
    }

    private func attend(_ id: String, _ wait: Wait) async throws -> JobInfo {
        var display = ProgressDisplay(isShown: agent.console.showsProgress)
        defer { display.clear() }
        var hasCancelled = false
        wait.wake.yield()
        for await _ in wait.wakeups {
            if !hasCancelled, wait.interruptCount.load(ordering: .relaxed) > 0 {
                hasCancelled = true
                display.clear()
                agent.console.note("cancelling job \(id)")
                // It may have concluded in this moment; then there is nothing to cancel.
                _ = try? await agent.execute(JobCancel.self, JobReference(id: id))
            }
            let job = try await look(at: id, wait)
            if job.status == .concluded { return job }
            if endsWhenReady, job.status == .ready || job.status == .standby { return job }
            display.show(job)
        }
        throw CancellationError()
    }

    private func look(at id: String, _ wait: Wait) async throws -> JobInfo {
        let jobs: [JobInfo]
        do {
            jobs = try await agent.client.execute(QueryJobs.self, .init(id: id))
        } catch let error as ControlError {
            guard let job = await wait.end(of: id) else { throw error }
            return job
        } catch let error as QMPClientError {
            throw CommandFailure(
                .failed,
                "job \(id) is lost: \(error): look at the agent's log, start it again with "
                    + "`tidemark --state \(agent.stateDirectory) agent`, then repeat the command")
        }
        var found = jobs.first { $0.id == id && $0.status != .null }
        if found == nil { found = await wait.end(of: id) }
        guard let job = found else {
            throw CommandFailure(
                .failed,
                "job \(id) is gone: it was dismissed elsewhere, and what it came to is "
                    + "not known here; `tidemark points` shows what there is")
        }
        return job
    }
}

/// The progress line on the terminal, at most five times a second.
private struct ProgressDisplay {
    let isShown: Bool
    private let clock = ContinuousClock()
    private let start: ContinuousClock.Instant
    private var line = ProgressLine()
    private var drawn: ContinuousClock.Instant?

    init(isShown: Bool) {
        self.isShown = isShown
        start = clock.now
    }

    mutating func show(_ job: JobInfo) {
        let now = clock.now
        guard isShown, drawn.map({ now - $0 >= .milliseconds(200) }) ?? true else { return }
        drawn = now
        let seconds = (now - start) / .seconds(1)
        Console.writeToStandardError("\r\(line.text(job, at: seconds))\u{1b}[K")
    }

    mutating func clear() {
        if drawn != nil { Console.writeToStandardError("\r\u{1b}[K") }
        drawn = nil
    }
}

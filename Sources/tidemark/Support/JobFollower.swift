import Control
import Foundation

// Waiting for a job: the agent's events wake the wait at once, and a poll at a steady pace shows
// progress and makes up for any event that was lost. Ctrl-C asks the agent to cancel the job and
// goes on waiting until it has concluded; a second one gives up waiting.

/// Follows one job to its end.
struct JobFollower {
    let agent: AgentSession
    /// Whether Ctrl-C cancels the job, or only the waiting.
    var cancelsOnInterrupt = true

    private enum Wakeup: Sendable {
        case look
        case interrupted
    }

    /// Waits until the job has concluded and returns what it came to. Throws a failure with the
    /// code of an interruption if Ctrl-C ended the waiting; a job that was cancelled by it is
    /// returned as any other.
    func follow(_ id: String) async throws -> (job: JobInfo, wasInterrupted: Bool) {
        let (wakeups, wake) = AsyncStream<Wakeup>.makeStream(bufferingPolicy: .bufferingNewest(16))
        return try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { [client = agent.client] in
                for try await event in client.events where event.data?["id"] == .string(id) {
                    wake.yield(.look)
                }
                wake.yield(.look)
            }
            group.addTask { [console = agent.console] in
                while !Task.isCancelled {
                    wake.yield(.look)
                    try await Task.sleep(for: .milliseconds(console.showsProgress ? 250 : 1000))
                }
            }
            group.addTask {
                for await _ in Interrupts.stream() { wake.yield(.interrupted) }
            }
            defer { group.cancelAll() }
            return try await attend(id, wakeups)
        }
    }

    private func attend(
        _ id: String, _ wakeups: AsyncStream<Wakeup>
    ) async throws -> (job: JobInfo, wasInterrupted: Bool) {
        var display = ProgressDisplay(isShown: agent.console.showsProgress)
        defer { display.clear() }
        var wasInterrupted = false
        for await wakeup in wakeups {
            if wakeup == .interrupted {
                guard cancelsOnInterrupt, !wasInterrupted else {
                    throw CommandFailure(
                        .interrupted,
                        "interrupted: job \(id) goes on, see `tidemark job show \(id)`")
                }
                wasInterrupted = true
                display.clear()
                agent.console.note("cancelling job \(id)")
                // It may have concluded in this moment; then there is nothing to cancel.
                _ = try? await agent.execute(JobCancel.self, JobReference(id: id))
            }
            let job = try await look(at: id)
            if job.status == .concluded { return (job, wasInterrupted) }
            display.show(job)
        }
        throw CommandFailure(.interrupted, "interrupted while waiting for job \(id)")
    }

    private func look(at id: String) async throws -> JobInfo {
        let jobs: [JobInfo]
        do {
            jobs = try await agent.client.execute(QueryJobs.self, .init(id: id))
        } catch let error as QMPClientError {
            throw CommandFailure(
                .failed,
                "job \(id) is lost: \(error): look at the agent's log, start it again with "
                    + "`tidemark --state \(agent.stateDirectory) agent`, then repeat the command")
        }
        guard let job = jobs.first(where: { $0.id == id }), job.status != .null else {
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

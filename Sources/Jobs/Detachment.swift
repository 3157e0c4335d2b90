package import BlockCore
import Synchronization

// A repository that hangs holds up whoever waits for it, for ever if it comes to that: a thread in
// a system call cannot be called back. A job that is cancelled must end all the same. So what may
// hang runs in a task of its own, and after a cancellation the job waits for that for a few seconds
// only. The task goes on alone, with all that it holds: buffers stay where the kernel may still
// write them, and what it undoes it undoes when the repository answers again.

/// Work that is waited for, but not without end once the waiting task has been cancelled.
package enum Detachment {
    /// How long cancelled work has to end in good order.
    package static let grace = Duration.seconds(3)

    /// Runs `body` in a task of its own, which is cancelled with the present one, and returns what
    /// it comes to. If it does not end within `grace` of a cancellation, throws `cancelled`; if not
    /// within `limit`, `timedOut`.
    package static func run<T: Sendable>(
        on place: String, grace: Duration = grace, within limit: Duration? = nil,
        _ body: @escaping @Sendable () async throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        let race = Race<T>()
        let work = Task {
            do throws(BlockError) {
                race.end(.success(try await body()))
            } catch {
                race.end(.failure(error))
            }
        }
        let clock = limit.map { limit in
            Task {
                do { try await Task.sleep(for: limit) } catch { return }
                race.end(
                    .failure(
                        BlockError(
                            .timedOut, "wait any longer", on: place,
                            detail: "it did not answer within \(limit)")))
                work.cancel()
            }
        }
        defer { clock?.cancel() }
        let result = await withTaskCancellationHandler {
            await race.outcome()
        } onCancel: {
            work.cancel()
            Task {
                try? await Task.sleep(for: grace)
                race.end(
                    .failure(
                        BlockError(
                            .cancelled, "wait any longer", on: place,
                            detail: "it does not answer; what was begun there is undone when it "
                                + "does")))
            }
        }
        return try result.get()
    }
}

/// The first of several results.
private final class Race<T: Sendable>: Sendable {
    private struct State {
        var result: Result<T, BlockError>?
        var waiter: CheckedContinuation<Result<T, BlockError>, Never>?
    }

    private let state = Mutex(State())

    /// Offers a result; all but the first are dropped.
    func end(_ result: Result<T, BlockError>) {
        let waiter = state.withLock { state -> CheckedContinuation<Result<T, BlockError>, Never>? in
            guard state.result == nil else { return nil }
            state.result = result
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume(returning: result)
    }

    /// Waits for the first result; called once.
    func outcome() async -> Result<T, BlockError> {
        await withCheckedContinuation { continuation in
            let result = state.withLock { state in
                if state.result == nil { state.waiter = continuation }
                return state.result
            }
            if let result { continuation.resume(returning: result) }
        }
    }
}

package import BlockCore
import Synchronization

/// The states of a job, named and ordered as QEMU's `query-jobs` has them.
package enum JobStatus: String, Sendable {
    case created, running, paused, ready, standby, waiting, pending, aborting, concluded, null
}

/// What a job does.
package enum JobType: String, Sendable {
    case backup, restore, stream, verify
}

/// A long operation that can be watched and cancelled. Its progress is in bytes.
package final class Job: Sendable {
    package let id: String
    package let type: JobType

    private struct State {
        var status = JobStatus.created
        var currentBytes: UInt64 = 0
        var totalBytes: UInt64 = 0
        var isCancelled = false
        var error: String?
        var failure: BlockError?
        var result: JobResult?
        var task: Task<Void, Never>?
    }

    private let state = Mutex(State())

    init(id: String, type: JobType) {
        self.id = id
        self.type = type
    }

    package var status: JobStatus { state.withLock { $0.status } }

    /// Bytes done and bytes in all; the latter may grow while the job finds out.
    package var progress: (currentBytes: UInt64, totalBytes: UInt64) {
        state.withLock { ($0.currentBytes, $0.totalBytes) }
    }

    /// Why the job failed, once it has.
    package var error: String? { state.withLock { $0.error } }

    /// What it failed with, unless it was cancelled.
    package var failure: BlockError? { state.withLock { $0.failure } }

    /// What came of it, once it has succeeded.
    package var result: JobResult? { state.withLock { $0.result } }

    package var isCancelled: Bool { state.withLock { $0.isCancelled } }

    /// Throws `cancelled` once the job has been asked to end.
    package func checkCancelled() throws(BlockError) {
        if isCancelled { throw BlockError(.cancelled, "go on", on: "job \(id)") }
    }

    /// Adds to the bytes that the job will have done at its end.
    package func expect(_ bytes: UInt64) { state.withLock { $0.totalBytes += bytes } }

    /// Adds to the bytes done.
    package func advance(by bytes: UInt64) { state.withLock { $0.currentBytes += bytes } }

    /// Sets the bytes done and the bytes in all.
    package func setProgress(_ currentBytes: UInt64, of totalBytes: UInt64) {
        state.withLock { state in
            state.currentBytes = currentBytes
            state.totalBytes = totalBytes
        }
    }

    /// Asks the job to end soon. It ends as failed, having undone what it began.
    func cancel() {
        let task = state.withLock { state in
            state.isCancelled = true
            return state.task
        }
        task?.cancel()
    }

    func set(_ status: JobStatus) { state.withLock { $0.status = status } }

    func fail(_ error: BlockError) {
        state.withLock { state in
            guard state.isCancelled else {
                state.error = error.description
                state.failure = error
                return
            }
            state.error = "the job was cancelled"
            // What did not end in good order says so: a repository that does not answer.
            if error.kind == .cancelled, let detail = error.detail {
                state.error = "the job was cancelled; \(error.place): \(detail)"
            }
        }
    }

    func succeed(_ result: JobResult) {
        state.withLock { state in
            state.result = result
            state.currentBytes = state.totalBytes
        }
    }

    func attach(_ task: Task<Void, Never>) { state.withLock { $0.task = task } }

    /// Waits until the job's work is over.
    package func wait() async { await state.withLock { $0.task }?.value }
}

import BlockCore

/// What changes of a job, behind its lock.
struct JobState {
    /// How a job that is ready has been asked to end.
    enum Ending {
        case complete, graceful
    }

    var status = JobStatus.undefined
    var currentBytes: UInt64 = 0
    var totalBytes: UInt64 = 0

    var speedBytes: UInt64
    /// When the next bytes may be copied, if there is a limit.
    var nextCopy = ContinuousClock.now

    var isUserPaused = false
    var ioStatus = JobIOStatus.ok
    /// The tasks of the body that pass pause points, and how many of them wait at one.
    var taskCount = 1
    var parkedCount = 0
    /// Tasks that have nothing to do until somebody asks for something.
    var idleCount = 0

    var ending: Ending?
    var isEndingTaken = false
    var changes: [JobChange] = []
    /// Given up, by force; what else it was asked to do does not matter any more.
    var isCancelled = false
    /// Given up because the agent ends.
    var isInterrupted = false
    /// A cancellation comes too late.
    var isBeyondCancel = false

    var isStarted = false
    var hasRunEnded = false
    /// Concluded, and everybody who had to know does.
    var isSettled = false
    var result: JobResult?
    var error: String?
    var failure: BlockError?
    var work: Task<Result<JobResult, BlockError>, Never>?

    var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
    var lastWaiter: UInt64 = 0

    var resumption: JobResumption?

    init(_ options: JobOptions) {
        speedBytes = options.speedBytes
        resumption = options.resumption
    }

    /// Whether the body's tasks are to wait at their next pause point.
    var mustPause: Bool { isUserPaused && !isCancelled && !hasRunEnded }

    /// Whether every task of the body that is still at work waits.
    var isAtRest: Bool { mustPause && parkedCount > 0 && parkedCount >= taskCount }

    /// What the body is asked for.
    var request: JobRequest? {
        if isCancelled { return .cancel }
        if let change = changes.first { return .change(change) }
        guard let ending, !isEndingTaken, !mustPause else { return nil }
        return ending == .complete ? .complete : .cancelGracefully
    }

    mutating func takeRequest() -> JobRequest? {
        let request = request
        switch request {
        case .change: changes.removeFirst()
        case .complete, .cancelGracefully: isEndingTaken = true
        case .cancel, nil: break
        }
        return request
    }

    /// Gives the job up, even if it is paused.
    mutating func cancel() {
        isCancelled = true
        isUserPaused = false
        ioStatus = .ok
    }

    mutating func fail(_ error: BlockError) {
        guard isCancelled else {
            self.error = error.description
            failure = error
            return
        }
        self.error = "the job was cancelled"
        // What did not end in good order says so: a repository that does not answer.
        if error.kind == .cancelled, let detail = error.detail {
            self.error = "the job was cancelled; \(error.place): \(detail)"
        }
    }

    /// Lets a debt of copying that was made at another speed last as long as it would at this one.
    mutating func setSpeed(_ bytes: UInt64) {
        let now = ContinuousClock.now
        if bytes > 0, speedBytes > 0, nextCopy > now {
            nextCopy = now + (nextCopy - now) * (Double(speedBytes) / Double(bytes))
        } else {
            nextCopy = now
        }
        speedBytes = bytes
    }
}

package import BlockCore

// What a body uses of its job.
//
// A body is one task unless it says otherwise (`withTasks`). A paused job is `paused`, or `standby`
// if it was ready, once all its tasks wait at a pause point: from then on nothing of it is in flight
// and its progress stands still.

extension Job {
    // MARK: Progress

    /// Adds to the bytes that the job will have done at its end.
    package func expect(_ bytes: UInt64) { look { $0.totalBytes += bytes } }

    /// Adds to the bytes done.
    package func advance(by bytes: UInt64) { look { $0.currentBytes += bytes } }

    /// Sets the bytes done and the bytes in all.
    package func setProgress(_ currentBytes: UInt64, of totalBytes: UInt64) {
        look { state in
            state.currentBytes = currentBytes
            state.totalBytes = totalBytes
        }
    }

    // MARK: Waiting

    /// Throws `cancelled` once the job has been given up by force.
    package func checkCancelled() throws(BlockError) {
        if isCancelled { throw BlockError(.cancelled, "go on", on: "job \(id)") }
    }

    /// Waits while the job is paused. Throws `cancelled` once it has been given up by force.
    package func pausePoint() async throws(BlockError) {
        while look(\.mustPause) { await park() }
        try checkCancelled()
    }

    /// Returns when the job may copy `bytes` more. It is a pause point too.
    package func admit(_ bytes: UInt64) async throws(BlockError) {
        while true {
            try await pausePoint()
            let (due, speedBytes) = look { state in (state.admit(bytes), state.speedBytes) }
            guard let due else { return }
            await wait(until: due) {
                $0.mustPause || $0.isCancelled || $0.speedBytes != speedBytes
            }
        }
    }

    /// Runs `body`, which makes `count` tasks that pass pause points instead of the present one.
    /// Each of them calls `endTask` when it is over.
    package func withTasks<T: Sendable>(
        _ count: Int, _ body: () async throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        update { $0.taskCount += count - 1 }
        defer { update { $0.taskCount += 1 } }
        return try await body()
    }

    /// Says that one of several tasks of the body is over.
    package func endTask() {
        update { state in
            state.taskCount -= 1
            settle(&state)
        }
    }

    private func park() async {
        update { state in
            state.parkedCount += 1
            settle(&state)
        }
        await wait { !$0.mustPause }
        update { state in
            state.parkedCount -= 1
            unsettle(&state)
        }
    }

    /// Makes the pause visible once all tasks wait.
    private func settle(_ state: inout JobState) {
        guard state.isAtRest else { return }
        switch state.status {
        case .running: move(&state, to: .paused)
        case .ready: move(&state, to: .standby)
        default: break
        }
    }

    /// Goes back to work from a pause.
    func unsettle(_ state: inout JobState) {
        switch state.status {
        case .paused: move(&state, to: .running)
        case .standby: move(&state, to: .ready)
        default: break
        }
    }

    // MARK: Being ready

    /// Says that source and target are in step.
    package func becomeReady() {
        update { state in
            unsettle(&state)
            state.currentBytes = state.totalBytes
            move(&state, to: .ready)
            tell(.ready(moment(state)))
            settle(&state)
        }
    }

    /// What the body is asked for, if anything is; it stays asked for.
    package var pendingRequest: JobRequest? { look { $0.request } }

    /// What the body is asked for, once: but for a forced cancel, it is as good as done.
    package func takeRequest() -> JobRequest? { look { $0.takeRequest() } }

    /// Waits until the body is asked for something, and takes that. It is a pause point too.
    package func nextRequest() async -> JobRequest {
        while true {
            while look(\.mustPause) { await park() }
            if let request = takeRequest() { return request }
            look { $0.idleCount += 1 }
            await wait { $0.mustPause || $0.request != nil }
            look { $0.idleCount -= 1 }
        }
    }

    // MARK: Going on after a restart

    /// Has the catalog know how the job goes on after a restart of the agent. Returns when it does.
    package func remember(_ resumption: JobResumption?) async {
        look { $0.resumption = resumption }
        await remember()
    }

    // MARK: Errors

    /// Says that a request of the job failed, and what to do about it by the policy for its side;
    /// throws `error` if the job is to fail. Where the policy waits for a user, so does this.
    package func decide(
        on error: BlockError, isRead: Bool
    ) async throws(BlockError) -> ErrorDecision {
        guard error.kind != .cancelled, !isCancelled else { throw error }
        let policy = isRead ? options.onSourceError : options.onTargetError
        let action = policy.action(isFull: error.kind == .noSpace)
        update { state in
            tell(.error(id: id, isRead: isRead, action))
            guard action == .stop else { return }
            state.isUserPaused = true
            if state.ioStatus == .ok {
                state.ioStatus = error.kind == .noSpace ? .nospace : .failed
            }
        }
        switch action {
        case .report: throw error
        case .ignore: return .ignore
        case .stop:
            try await pausePoint()
            return .retry
        }
    }

    /// Does a request of the job again and again if the policy for its side says so: where an error
    /// is to be ignored too, a moment later, since a copy must not lack anything. What does not come
    /// from a medium fails at once.
    package func insist<T: Sendable>(
        isRead: Bool, _ request: () async throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        while true {
            do throws(BlockError) {
                return try await request()
            } catch {
                try await retry(error, isRead: isRead)
            }
        }
    }

    /// Returns when a request that failed is to be done again; throws `error` if it is not.
    package func retry(_ error: BlockError, isRead: Bool) async throws(BlockError) {
        guard [.io, .noSpace, .busy, .timedOut].contains(error.kind) else { throw error }
        guard try await decide(on: error, isRead: isRead) == .ignore else { return }
        await wait(until: .now + .milliseconds(100)) { $0.mustPause || $0.isCancelled }
        try await pausePoint()
    }
}

extension JobState {
    /// What an idle limiter may catch up with at once.
    private static let slack = Duration.milliseconds(100)

    /// Admits `bytes` and returns nil, or returns when to ask again.
    fileprivate mutating func admit(_ bytes: UInt64) -> ContinuousClock.Instant? {
        guard speedBytes > 0 else { return nil }
        let now = ContinuousClock.now
        guard nextCopy <= now else { return nextCopy }
        let cost = Duration.seconds(Double(bytes) / Double(speedBytes))
        nextCopy = max(nextCopy, now - Self.slack) + cost
        return nil
    }
}

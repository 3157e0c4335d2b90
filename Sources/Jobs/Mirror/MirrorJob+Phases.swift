import BlockCore
import Synchronization
import Volumes

// The two phases of a mirror: until source and target are in step, and from then on.

extension MirrorJob {
    /// Phase 1.
    func bringInStep(_ job: Job) async throws(BlockError) {
        var heldBytes = Self.heldBytesMax
        while true {
            try await pass(job)
            if working.isInStep { return }
            try await serve(job)
            try await converge()
            // Guests that never pause leave a little due after every pass.
            guard working.dueBytes <= heldBytes else { continue }
            heldBytes = min(heldBytes * 2, 16 * Self.heldBytesMax)
            let isInStep = try await volume.tryHolding(for: .seconds(1)) {
                [self] (end) async throws(BlockError) in
                do throws(BlockError) { try await catchUp(until: end) } catch {
                    // The next pass meets it too, and there the job's policy decides.
                    return false
                }
                return true
            }
            if isInStep == true { return }
        }
    }

    /// Phase 2. Returns whether to pivot, once little is due; nil if a transaction has ended the job.
    func keepInStep(_ job: Job) async throws(BlockError) -> Bool? {
        var pivots: Bool?
        var passCount = 0
        while true {
            if try await rest(job) { return nil }
            if let asked = try await serve(job) { pivots = pivots ?? asked }
            if working.dueBytes > 0 { try await pass(job) }
            let isShared = isEndingShared
            if pivots != nil || isShared {
                if working.dueBytes <= Self.heldBytesMax {
                    if let pivots, !isShared { return pivots }
                    noteDrained()
                    try await idle()
                } else {
                    passCount += 1
                    if passCount == 3 {
                        try await setCopyMode(.writeBlocking)
                        parts.follower.waitAgain()
                    }
                }
                continue
            }
            if passCount > 0 {
                // A transaction that did not take place made guests wait.
                passCount = 0
                try await setCopyMode(state.withLock { $0.copyMode })
            }
            if working.isInStep { parts.follower.waitAgain() }
            try await converge()
            try await job.pausePoint()
            report(to: job)
            await settleIfDue()
            try await idle()
        }
    }

    /// Waits while a transaction ends the job; true if it has.
    private func rest(_ job: Job) async throws(BlockError) -> Bool {
        while true {
            let ending = state.withLock { state in
                if case .resting = state.ending { state.ending = .resting(isAtRest: true) }
                return state.ending
            }
            switch ending {
            case .ended: return true
            case .none, .draining: return false
            case .resting:
                try job.checkCancelled()
                try await idle()
            }
        }
    }

    private var isEndingShared: Bool {
        state.withLock { if case .draining = $0.ending { true } else { false } }
    }

    private func noteDrained() {
        state.withLock { state in
            if case .draining = state.ending { state.ending = .draining(isDrained: true) }
        }
    }

    /// Makes guests wait if they are faster, and if that was asked for.
    private func converge() async throws(BlockError) {
        guard options.autoConverge, meter.isOutrun, working.follower == nil else { return }
        try await setCopyMode(.writeBlocking)
        state.withLock { $0.copyMode = .writeBlocking }
    }

    /// Does what was asked of the job; returns whether to pivot if it is to end.
    @discardableResult
    private func serve(_ job: Job) async throws(BlockError) -> Bool? {
        if let error = parts.follower.takeFailure() { try await decide(error, isRead: false, job) }
        switch job.takeRequest() {
        case nil: return nil
        case .complete: return true
        case .cancelGracefully: return false
        case .change(.copyMode(let mode)):
            state.withLock { $0.copyMode = mode }
            try await setCopyMode(mode)
            await remember(job)
            return nil
        case .cancel:
            try job.checkCancelled()
            return nil
        }
    }

    /// One pass over what is due. A failure is decided upon by the job's policy.
    func pass(_ job: Job) async throws(BlockError) {
        let (copy, count) = (copy, copy.workerCount)
        let result = try await job.withTasks(count) { () async throws(BlockError) in
            await withTaskCancellationHandler {
                await copy.pass(workerCount: count, ended: { job.endTask() }) {
                    [self] (bytes) async throws(BlockError) in
                    report(to: job)
                    await settleIfDue()
                    if bytes > 0 { try await job.admit(bytes) } else { try await job.pausePoint() }
                }
            } onCancel: {
                // Who gives the mirror up does not wait for a target that does not answer.
                copy.target.abandonRequests()
            }
        }
        report(to: job)
        if case .failure(let failure) = result {
            return try await decide(failure.error, isRead: failure.isRead, job)
        }
        meter.endPass(dueBytes: working.dueBytes, enoughBytes: Self.heldBytesMax)
    }

    private func decide(
        _ error: BlockError, isRead: Bool, _ job: Job
    ) async throws(BlockError) {
        if case .ignore = try await job.decide(on: error, isRead: isRead) {
            do { try await Task.sleep(for: Self.errorPause) } catch { try job.checkCancelled() }
        }
    }

    /// Copies what is due with the volume held, which nobody can add to; until `end` at most.
    func catchUp(until end: ContinuousClock.Instant) async throws(BlockError) {
        let copy = copy
        try await Detachment.run(on: target.name, within: end - .now) {
            () async throws(BlockError) in
            // More than one, since a range that was in flight is passed over.
            while !copy.working.isInStep {
                guard ContinuousClock.now < end else {
                    throw BlockError(.timedOut, "copy what is due", on: copy.target.name)
                }
                let result = await copy.pass(workerCount: copy.workerCount)
                if case .failure(let failure) = result { throw failure.error }
                if !copy.working.isInStep { try? await Task.sleep(for: .milliseconds(1)) }
            }
        }
    }

    /// From time to time, makes sure of what has been copied, so that an end of the agent does not have
    /// it copied again. What fails is decided upon later, as for a write.
    private func settleIfDue() async {
        let isDue = state.withLock { state in
            guard ContinuousClock.now - state.lastSettled > Self.settleInterval else {
                return false
            }
            state.lastSettled = .now
            return true
        }
        guard isDue else { return }
        do throws(BlockError) { try await settle() } catch { return parts.follower.note(error) }
        // It is only that the catalog learns of it later.
        try? await volume.persistAhead()
    }

    /// Makes source and target durable, and has the working bitmap forget what both have.
    func settle() async throws(BlockError) {
        try await working.settle { () async throws(BlockError) in
            try await volume.flush()
            try await target.device.flush()
        }
    }

    func setCopyMode(_ mode: CopyMode) async throws(BlockError) {
        let isFollowing = working.follower != nil
        guard isFollowing != (mode == .writeBlocking) else { return }
        try await volume.setFollower(mode == .writeBlocking ? parts.follower : nil, of: working)
        meter.restart()
    }

    func report(to job: Job) {
        let (done, due) = (copy.doneBytes.value, working.dueBytes)
        job.setProgress(done, of: done + due)
        meter.sample(
            dueBytes: due, doneBytes: done, followedBytes: parts.follower.followedBytes.value)
    }

    private func idle() async throws(BlockError) {
        do { try await Task.sleep(for: Self.idlePause) } catch {
            throw BlockError(.cancelled, "go on", on: volume.name)
        }
    }
}

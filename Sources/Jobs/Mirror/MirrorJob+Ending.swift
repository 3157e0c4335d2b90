package import BlockCore
import Synchronization
package import Volumes

// The end of a mirror, alone or with other things at one instant (`EndsAtInstant`).
//
//   drain      little is due; what is to be below the target is opened
//   rest       the job's own passes stop
//   instant    what is due is copied with the volume held, source and target flushed. From then on
//              a cancellation comes too late, unless the try fails
//   happened   the job is over, or goes on as if nothing had been asked

extension MirrorJob {
    /// How often the end is tried, and how long each time: in between, writes go on.
    private static let endingTries = 30
    private static let endingLimit = Duration.seconds(2)
    private static let closingLimit = Duration.seconds(10)

    package func prepare(_ job: Job) async throws(BlockError) {
        guard !isEnded else { return }
        let pivots = state.withLock { $0.pivots } ?? false
        var action = try ending(job, pivots: pivots)
        action.drain = { [self] () async throws(BlockError) in
            try await openBacking(pivots)
            // With guests held little is left to be flushed.
            try await settle()
        }
        try await QuietTransaction.perform([action])
    }

    /// The end of the mirror as a part of what happens at one instant.
    private func ending(_ job: Job, pivots: Bool) throws(BlockError) -> QuietAction {
        let parts = parts
        var step = volume.endingWorkingBitmap(
            parts.working, settling: bitmap(to: [.onSuccess, .always])
        ) { [self] (end) async throws(BlockError) in
            try await catchUp(until: end)
            try await Detachment.run(on: target.name, within: end - .now) {
                [self] () async throws(BlockError) in try await settle()
            }
            guard job.passBeyondCancel() else {
                throw BlockError(.cancelled, "go on", on: "job \(job.id)")
            }
            parts.outcome.noteInstant(pivots: pivots)
            return nil
        }
        if pivots {
            step = try target.pivot(of: volume, alongside: step) { [self] in
                state.withLock { $0.backing }
            }
        }
        var action = QuietAction([step])
        action.tries = Self.endingTries
        action.deadline = Self.endingLimit
        action.betweenTries = { [self] () async throws(BlockError) in
            await resumeWriting(job)
            if case .failure(let failure) = await copy.pass(workerCount: copy.workerCount) {
                throw failure.error
            }
        }
        action.happened = { [self] outcome in
            state.withLock { state in
                state.ending = .ended
                state.isPivoted = pivots
                state.retired = outcome.retired(of: volume)
            }
        }
        action.withdraw = { [self] in
            await resumeWriting(job)
            let backing = state.withLock { state in
                defer { state.backing = nil }
                return state.backing
            }
            await backing?.close()
        }
        return action
    }

    private func resumeWriting(_ job: Job) async {
        job.returnBeforeCancel()
        await target.resumeWriting()
    }

    private func openBacking(_ pivots: Bool) async throws(BlockError) {
        guard pivots else { return }
        let backing = try await target.openBacking()
        state.withLock { $0.backing = backing }
    }

    package func abort(_ job: Job) async {
        guard !isEnded else { return }
        if job.isInterrupted, job.resumption != nil {
            // What it recorded is what it goes on with: only nobody must wait for the target.
            if let parts = state.withLock({ $0.parts }) {
                try? await volume.setFollower(nil, of: parts.working)
            }
            return
        }
        if let error = await undo() { job.noteFailure(error) }
        target.abandonRequests()
    }

    /// Ends the recording of writes for a job that never began.
    package func abandon() async {
        _ = await undo()
        try? await target.close()
    }

    private func undo() async -> BlockError? {
        guard let working = state.withLock({ $0.parts?.working }) else { return nil }
        let settled = bitmap(to: [.always])
        // What is not known to be durable stays marked.
        if settled != nil { try? await settle() }
        var failure: BlockError?
        for _ in 0..<Self.endingTries {
            do throws(BlockError) {
                try await volume.endWorkingBitmap(
                    working, settling: settled, deadline: Self.endingLimit)
                return nil
            } catch {
                failure = error
            }
        }
        return failure
    }

    package func clean(_ job: Job) async {
        let (isPivoted, retired) = state.withLock { ($0.isPivoted, $0.retired) }
        let (target, working) = (target, state.withLock { $0.parts?.working })
        // What hangs goes on without the job.
        try? await Detachment.run(on: volume.name, within: Self.closingLimit) {
            () async throws(BlockError) in
            for images in retired { await images.close() }
            await working?.drainFollowers()
            try await target.end(isPivoted: isPivoted)
        }
    }

    /// The bitmap that the mirror started from, if one of these modes says what becomes of it.
    private func bitmap(to modes: Set<MirrorBitmapMode>) -> String? {
        guard case .bitmap(let name, let mode) = options.sync, modes.contains(mode) else {
            return nil
        }
        return name
    }
}

extension MirrorJob: EndsAtInstant {
    /// How long a job may drain before a transaction gives up.
    private static let drainLimit = Duration.seconds(30)

    package func sharedEnding(_ job: Job, pivots: Bool) throws(BlockError) -> QuietAction {
        var action = try ending(job, pivots: pivots)
        let isFree = state.withLock { state in
            guard case .none = state.ending else { return false }
            state.ending = .draining(isDrained: false)
            return true
        }
        guard isFree else {
            throw BlockError(
                .invalid, "end the mirror", on: volume.name, detail: "it is ending already")
        }
        action.drain = { [self] () async throws(BlockError) in
            try await openBacking(pivots)
            try await wait(for: job) { if case .draining(true) = $0 { true } else { false } }
        }
        action.rest = { [self] () async throws(BlockError) in
            state.withLock { $0.ending = .resting(isAtRest: false) }
            try await wait(for: job) { if case .resting(true) = $0 { true } else { false } }
        }
        let withdraw = action.withdraw
        action.withdraw = { [self] in
            await withdraw()
            state.withLock { $0.ending = .none }
        }
        return action
    }

    private func wait(
        for job: Job, _ isThere: @Sendable (Ending) -> Bool
    ) async throws(BlockError) {
        let end = ContinuousClock.now + Self.drainLimit
        while !state.withLock({ isThere($0.ending) }) {
            guard job.status == .ready, !job.isCancelled else {
                throw BlockError(
                    .cancelled, "end the mirror", on: volume.name,
                    detail: "job '\(job.id)' is \(job.status.rawValue)")
            }
            guard ContinuousClock.now < end else {
                throw BlockError(
                    .timedOut, "end the mirror", on: volume.name,
                    detail: "its target did not catch up within \(Self.drainLimit)")
            }
            try? await Task.sleep(for: .milliseconds(2))
        }
    }
}

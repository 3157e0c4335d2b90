package import BlockCore
import Synchronization
package import Volumes

// A mirror: its target gets what the source has, and from then on what the source is written.
//
//   seed       what has to be copied is marked; what guests write is, from before that on
//   phase 1    passes over what is due, until source and target have been in step once: READY
//   phase 2    passes over what guests write; or, in write-blocking mode, nothing to do
//   drain      asked to complete, or to end gracefully: passes until little is due. If guests are
//              faster than those, they are made to wait for the target
//   end        (`MirrorJob+Ending`) at one instant, with writes held: what is still due is copied, the
//              target flushed; then the volume's images are the target, or the mirror is over
//
// The content of the target is that of the source at the end's instant, whether or not it becomes
// the volume's image. Until then nothing of the volume has changed.

/// Keeps a target in step with a volume.
package final class MirrorJob: JobBody {
    let volume: Volume
    let target: TargetImage
    let options: MirrorOptions
    let working: WorkingBitmap
    let copy: MirrorCopy
    let follower: MirrorFollower
    let outcome: MirrorOutcome
    let state = Mutex(State())

    struct State {
        /// Whether the job is to end with a pivot; nil until it is to end.
        var pivots: Bool?
        var isPivoted = false
        var retired: [RetiredImages] = []
        var isEnded = false
    }

    /// So much may be due for the volume to be held while it is copied.
    static let heldBytesMax: UInt64 = 4 << 20
    private static let settleInterval = Duration.seconds(5)
    private static let idlePause = Duration.milliseconds(5)
    private static let errorPause = Duration.milliseconds(100)

    /// Makes the body of the job `jobID`. From here on writes of `volume` are recorded for it, and
    /// `abandon` has to be called if the job cannot be started.
    package init(
        of volume: Volume, to target: TargetImage, jobID: String, options: MirrorOptions
    ) async throws(BlockError) {
        if let device = target.device as? Volume, device === volume {
            throw BlockError(
                .invalid, "mirror", on: volume.name, detail: "Can't mirror node into itself")
        }
        guard volume.workingBitmaps.isEmpty else {
            throw BlockError(
                .busy, "mirror", on: volume.name,
                detail: "\(volume.workingJobID ?? "a job") is at work on it: wait for that")
        }
        var seed = WorkingSeed.nothing
        switch options.sync {
        case .full where !target.isZero && !options.isTargetZero: seed = .everything
        case .bitmap(let name, let mode): seed = .bitmap(name, settles: mode != .never)
        default: break
        }
        self.volume = volume
        self.target = target
        self.options = options
        working = try await volume.addWorkingBitmap(
            jobID: jobID,
            granularityBytes: options.granularityBytes ?? volume.defaultGranularityBytes,
            seed: seed)
        copy = try MirrorCopy(
            volume: volume, target: target, working: working, options: options)
        follower = MirrorFollower(copy)
        outcome = MirrorOutcome(volume: volume.name, target: target.name, copy)
    }

    package var isChangeable: Bool { true }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        try await setCopyMode(options.copyMode)
        try await seed(job)
        try await bringInStep(job)
        report(to: job)
        job.becomeReady()
        let pivots = try await keepInStep(job)
        state.withLock { $0.pivots = pivots }
        report(to: job)
        outcome.end(after: ContinuousClock.now - started)
        return .mirror(outcome)
    }

    /// Marks what the map of the source says is to be copied.
    private func seed(_ job: Job) async throws(BlockError) {
        let due: (Extent) -> ByteRange?
        switch options.sync {
        case .full where target.isZero || options.isTargetZero:
            due = { $0.isZero ? nil : $0.range }
        case .above(let position):
            let held = volume.held(above: position)
            due = { held.part(of: $0) }
        default: return
        }
        var position: UInt64 = 0
        while position < volume.lengthBytes {
            try await job.pausePoint()
            let window = ByteRange(
                offset: position, end: min(position + 1 << 30, volume.lengthBytes))
            for extent in try await volume.allExtents(in: window) {
                if let range = due(extent) { working.mark(range) }
            }
            position = window.end
        }
    }

    /// Phase 1.
    private func bringInStep(_ job: Job) async throws(BlockError) {
        var heldBytes = Self.heldBytesMax
        while true {
            try await pass(job)
            if working.isInStep { return }
            try await serve(job)
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

    /// Phase 2. Returns whether to pivot, once little is due.
    private func keepInStep(_ job: Job) async throws(BlockError) -> Bool {
        var pivots: Bool?
        var passCount = 0
        var settled = ContinuousClock.now
        while true {
            if let asked = try await serve(job) { pivots = pivots ?? asked }
            if working.dueBytes > 0 { try await pass(job) }
            if let pivots {
                if working.dueBytes <= Self.heldBytesMax { return pivots }
                passCount += 1
                if passCount == 3 { try await setCopyMode(.writeBlocking) }
                continue
            }
            try await job.pausePoint()
            if ContinuousClock.now - settled > Self.settleInterval {
                try await settle(job)
                settled = .now
            }
            try await idle()
        }
    }

    /// Does what was asked of the job; returns whether to pivot if it is to end.
    @discardableResult
    private func serve(_ job: Job) async throws(BlockError) -> Bool? {
        if let error = follower.takeFailure() { try await decide(error, isRead: false, job) }
        switch job.takeRequest() {
        case nil: return nil
        case .complete: return true
        case .cancelGracefully: return false
        case .change(.copyMode(let mode)):
            try await setCopyMode(mode)
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
            await copy.pass(workerCount: count, ended: { job.endTask() }) {
                [self] (bytes) async throws(BlockError) in
                report(to: job)
                if bytes > 0 { try await job.admit(bytes) } else { try await job.pausePoint() }
            }
        }
        report(to: job)
        if case .failure(let failure) = result {
            try await decide(failure.error, isRead: failure.isRead, job)
        }
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

    /// Makes source and target durable, and has the catalog forget what both have.
    private func settle(_ job: Job) async throws(BlockError) {
        do throws(BlockError) { try await settle() } catch {
            try await decide(error, isRead: false, job)
        }
    }

    func settle() async throws(BlockError) {
        try await working.settle { () async throws(BlockError) in
            try await volume.flush()
            try await target.device.flush()
        }
    }

    private func setCopyMode(_ mode: CopyMode) async throws(BlockError) {
        let isFollowing = working.follower != nil
        guard isFollowing != (mode == .writeBlocking) else { return }
        try await volume.setFollower(mode == .writeBlocking ? follower : nil, of: working)
    }

    private func report(to job: Job) {
        let done = copy.doneBytes.value
        job.setProgress(done, of: done + working.dueBytes)
    }

    private func idle() async throws(BlockError) {
        do { try await Task.sleep(for: Self.idlePause) } catch {
            throw BlockError(.cancelled, "go on", on: volume.name)
        }
    }
}

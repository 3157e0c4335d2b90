package import BlockCore
import Synchronization
package import Volumes

// A mirror: its target gets what the source has, and from then on what the source is written.
//
//   begin      at one instant (`beginning`), perhaps with other things: from here on writes of guests
//              are recorded
//   seed       what has to be copied is marked
//   phase 1    passes over what is due, until source and target have been in step once: READY
//   phase 2    passes over what guests write; or, in write-blocking mode, nothing to do
//   drain      asked to complete, or to end gracefully: passes until little is due. If guests are
//              faster than those, they are made to wait for the target
//   end        (`MirrorJob+Ending`) at one instant, perhaps with other things, with writes held: what is
//              still due is copied, the target flushed; then the volume's images are the target, or
//              the mirror is over
//
// The content of the target is that of the source at the end's instant, whether or not it becomes
// the volume's image. Until then nothing of the volume has changed. An end of the agent before that
// leaves a working bitmap with which the mirror goes on (`MirrorResumption`).

/// Keeps a target in step with a volume.
package final class MirrorJob: JobBody {
    let volume: Volume
    let target: TargetImage
    let options: MirrorOptions
    let jobID: String
    /// The image of the source above which everything is copied.
    let basePath: String?
    let isResumed: Bool
    let meter = MirrorMeter()
    let state: Mutex<State>

    /// What there is from the instant of its beginning on.
    struct Parts {
        let working: WorkingBitmap
        let copy: MirrorCopy
        let follower: MirrorFollower
        let outcome: MirrorOutcome
    }

    struct State {
        var parts: Parts?
        /// Whether what is to be copied has been marked, durably.
        var isSeeded = false
        /// Whether source and target have been in step once.
        var isReady = false
        /// Whether the target was known to read as zeroes at first.
        var wasZero: Bool
        /// The copy mode that was asked for last.
        var copyMode: CopyMode
        /// Whether the job is to end with a pivot; nil until it is to end.
        var pivots: Bool?
        var lastSettled = ContinuousClock.now
        var ending = Ending.none
        var isPivoted = false
        var retired: [RetiredImages] = []
        /// What is going to be below the target after a pivot.
        var backing: TargetBackingImages?
    }

    /// How far the end has come.
    enum Ending {
        case none
        /// A transaction is going to end the job: it drains, and goes on.
        case draining(isDrained: Bool)
        /// It waits for the transaction.
        case resting(isAtRest: Bool)
        case ended
    }

    /// So much may be due for the volume to be held while it is copied.
    static let heldBytesMax: UInt64 = 4 << 20
    static let settleInterval = Duration.seconds(5)
    static let idlePause = Duration.milliseconds(5)
    static let errorPause = Duration.milliseconds(100)

    /// Makes the body of the job `jobID`, which begins with `beginning`. `images` are those that the
    /// source is going to have then.
    package init(
        planned volume: Volume, to target: TargetImage, jobID: String, options: MirrorOptions,
        images: [String]
    ) throws(BlockError) {
        if let device = target.device as? Volume, device === volume {
            throw BlockError(
                .invalid, "mirror", on: volume.name, detail: "Can't mirror node into itself")
        }
        guard volume.workingBitmaps.isEmpty else {
            throw BlockError(
                .busy, "mirror", on: volume.name,
                detail: "\(volume.workingJobID ?? "a job") is at work on it: wait for that")
        }
        self.volume = volume
        self.target = target
        self.options = options
        self.jobID = jobID
        var basePath: String?
        if case .above(let position) = options.sync {
            basePath = images.indices.contains(position) ? images[position] : nil
        }
        self.basePath = basePath
        isResumed = false
        state = Mutex(
            State(wasZero: target.isZero || options.isTargetZero, copyMode: options.copyMode))
    }

    /// Makes the body of the job `jobID`, and begins: from here on writes of `volume` are recorded for
    /// it, and `abandon` has to be called if the job cannot be started.
    package convenience init(
        of volume: Volume, to target: TargetImage, jobID: String, options: MirrorOptions
    ) async throws(BlockError) {
        try self.init(
            planned: volume, to: target, jobID: jobID, options: options, images: volume.imagePaths)
        try await QuietTransaction.run([beginning])
    }

    /// Makes the body of a job that goes on with what it recorded.
    package init(
        resuming resumption: MirrorResumption, _ working: WorkingBitmap, of volume: Volume,
        to target: TargetImage
    ) throws(BlockError) {
        self.volume = volume
        self.target = target
        var options = resumption.options
        // It was zero when the mirror began: by now it has what was copied.
        options.isTargetZero = false
        self.options = options
        jobID = working.jobID
        basePath = resumption.basePath
        isResumed = true
        state = Mutex(State(wasZero: resumption.wasZero, copyMode: options.copyMode))
        let parts = try Parts(working, of: self)
        state.withLock { state in
            state.parts = parts
            state.isSeeded = resumption.isSeeded
        }
    }

    /// The instant from which on writes are recorded, in write-blocking mode in the target as well.
    package var beginning: QuietStep {
        var seed = WorkingSeed.nothing
        switch options.sync {
        case .full where !state.withLock({ $0.wasZero }): seed = .everything
        case .bitmap(let name, let mode): seed = .bitmap(name, settles: mode != .never)
        default: break
        }
        return volume.startingWorkingBitmap(
            jobID: jobID,
            granularityBytes: options.granularityBytes ?? volume.defaultGranularityBytes,
            seed: seed
        ) { [self] (working) throws(BlockError) in
            let parts = try Parts(working, of: self)
            state.withLock { $0.parts = parts }
            return options.copyMode == .writeBlocking ? parts.follower : nil
        }
    }

    var parts: Parts {
        guard let parts = state.withLock({ $0.parts }) else {
            preconditionFailure("the mirror has not begun")
        }
        return parts
    }

    var working: WorkingBitmap { parts.working }
    var copy: MirrorCopy { parts.copy }

    package var isChangeable: Bool { true }

    /// A transaction may have ended it by then.
    package var standsOnceRun: Bool { isEnded }

    var isEnded: Bool {
        state.withLock { if case .ended = $0.ending { true } else { false } }
    }

    package var mirrorStatus: MirrorStatus? {
        let (parts, isReady) = state.withLock { ($0.parts, $0.isReady) }
        guard let parts else { return nil }
        let isBlocking = parts.working.follower != nil
        return MirrorStatus(
            copyMode: isBlocking ? .writeBlocking : .background, dueBytes: parts.working.dueBytes,
            rates: meter.rates, isOutrun: meter.isOutrun,
            isActivelySynced: isBlocking && isReady && parts.working.isInStep,
            isResumed: isResumed)
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        await remember(job)
        try await setCopyMode(state.withLock { $0.copyMode })
        try await seed(job)
        try await bringInStep(job)
        report(to: job)
        state.withLock { $0.isReady = true }
        job.becomeReady()
        let pivots = try await keepInStep(job)
        state.withLock { $0.pivots = pivots }
        report(to: job)
        parts.outcome.end(after: ContinuousClock.now - started)
        return .mirror(parts.outcome)
    }

    /// Has the catalog know how the job goes on.
    func remember(_ job: Job) async {
        guard let target = target.record(for: volume) else { return }
        let (isSeeded, wasZero, copyMode) = state.withLock {
            ($0.isSeeded, $0.wasZero, $0.copyMode)
        }
        var options = options
        options.copyMode = copyMode
        let resumption = MirrorResumption(
            target: target, options: options, basePath: basePath, wasZero: wasZero,
            isSeeded: isSeeded)
        await job.remember(resumption.record(bitmapID: working.id))
    }

    /// Marks what the map of the source says is to be copied.
    private func seed(_ job: Job) async throws(BlockError) {
        let (isSeeded, wasZero) = state.withLock { ($0.isSeeded, $0.wasZero) }
        if isSeeded { return }
        switch options.sync {
        case .full where wasZero:
            try await mark(job) { (extents, _) throws(BlockError) in
                extents.filter { !$0.isZero }.map(\.range)
            }
        case .above:
            try await mark(job) { [basePath, volume] (extents, images) throws(BlockError) in
                guard let basePath, let position = images.firstIndex(of: basePath) else {
                    throw BlockError(
                        .invalid, "mirror", on: volume.name,
                        detail: "the base \(basePath ?? "") is not in its chain any more")
                }
                let held = volume.held(above: position)
                return extents.compactMap { held.part(of: $0) }
            }
        default: return await noteSeeded(job)
        }
        // If it cannot be done in time, it is only marked once more after a restart.
        do throws(BlockError) { try await volume.saveBitmaps() } catch { return }
        await noteSeeded(job)
    }

    private func noteSeeded(_ job: Job) async {
        state.withLock { $0.isSeeded = true }
        await remember(job)
    }

    private func mark(
        _ job: Job, _ due: ([Extent], [String]) throws(BlockError) -> [ByteRange]
    ) async throws(BlockError) {
        var position: UInt64 = 0
        while position < volume.lengthBytes {
            try await job.pausePoint()
            let window = ByteRange(
                offset: position, end: min(position + 1 << 30, volume.lengthBytes))
            let images = volume.imagePaths
            let extents = try await volume.allExtents(in: window)
            // Depths are those of one chain.
            guard volume.imagePaths == images else { continue }
            for range in try due(extents, images) { working.mark(range) }
            position = window.end
        }
    }
}

extension MirrorJob.Parts {
    fileprivate init(_ working: WorkingBitmap, of job: MirrorJob) throws(BlockError) {
        self.working = working
        copy = try MirrorCopy(
            volume: job.volume, target: job.target, working: working, options: job.options)
        follower = MirrorFollower(copy)
        outcome = MirrorOutcome(volume: job.volume.name, target: job.target.name, copy)
    }
}

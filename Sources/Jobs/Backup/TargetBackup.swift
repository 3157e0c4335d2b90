import Bitmaps
package import BlockCore
import Repository
import Synchronization
package import Volumes

// QEMU's backup: the content of a volume at the instant of its start, copied to an image, a node or an
// export. What guests overwrite meanwhile is kept locally (`PointInTime`), and never waits for the
// target.
//
//   full, top, bitmap   the copy takes pieces of the point until there are none left
//   none                only what is overwritten goes to the target, behind the writes, until the job
//                       is given up: who reads the target over the volume sees the instant
//
// The bitmap is dealt with at the end (`BackupInstant`): when the job is finalized, with target and
// source durable; or when it has failed, and then only if it is to be changed always: what was not
// copied is put back first.

/// What of a volume a backup copies.
package enum TargetBackupContent: Sendable, Equatable {
    case everything
    /// What its top image holds.
    case top
    /// What its bitmap has marked.
    case bitmap
    /// What is overwritten.
    case nothing
}

/// How a volume is to be backed up to a target.
package struct TargetBackupOptions: Sendable {
    package var content: TargetBackupContent
    /// What becomes of the bitmap.
    package var bitmapMode: MirrorBitmapMode
    package var isCompressed: Bool

    package init(
        content: TargetBackupContent, bitmapMode: MirrorBitmapMode = .never,
        isCompressed: Bool = false
    ) {
        self.content = content
        self.bitmapMode = bitmapMode
        self.isCompressed = isCompressed
    }
}

/// Runs a backup to a target; its instant has been.
package final class TargetBackup: JobBody {
    private struct State {
        /// What was to be copied and was not, in the bitmap's granules.
        var left: DirtyBitmap?
        var mover: PointMover?
        var isEnded = false
    }

    private let volume: Volume
    private let target: TargetImage
    private let instant: BackupInstant
    private let options: TargetBackupOptions
    private let ended: @Sendable () async -> Void
    private let state = Mutex(State())

    private static let idlePause = Duration.milliseconds(10)
    private static let endingTries = 30
    private static let endingLimit = Duration.seconds(2)
    private static let closingLimit = Duration.seconds(10)

    /// `ended` is called, maybe twice, before the point is no more and the target is closed.
    package init(
        to target: TargetImage, instant: BackupInstant, options: TargetBackupOptions,
        ended: @escaping @Sendable () async -> Void = {}
    ) throws(BlockError) {
        volume = instant.request.volume
        self.target = target
        self.instant = instant
        self.options = options
        self.ended = ended
        if let device = target.device as? Volume, device === volume {
            throw BlockError(
                .invalid, "start a job", on: volume.name,
                detail: "Source and target cannot be the same")
        }
        guard !options.isCompressed || target.compressor != nil else {
            throw BlockError(
                .invalid, "start a job", on: target.name,
                detail: "Compression is not supported for this drive \(target.name)")
        }
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        guard let begun = instant.begun else {
            preconditionFailure("a backup runs after its instant")
        }
        let started = ContinuousClock.now
        let sink = TargetSink(target, isCompressed: options.isCompressed, job)
        if options.content == .nothing {
            try await follow(begun.point, job)
        } else {
            try await copy(begun, to: sink, job)
        }
        return .copy(
            TargetBackupOutcome(
                volume: volume.name, target: target.name, writtenBytes: sink.writtenBytes.value,
                duration: ContinuousClock.now - started))
    }

    private func copy(
        _ begun: BackupInstant.Begun, to sink: TargetSink, _ job: Job
    ) async throws(BlockError) {
        let dirty = try await whatToCopy(begun, job)
        let left = dirty.copy()
        state.withLock { $0.left = left }
        job.expect(dirty.dirtyBytes)
        let source = PointSource(
            point: begun.point, comparison: nil, changed: left, job: job)
        let pieces = PieceSource(
            device: volume, alignmentBytes: max(begun.point.granuleBytes, sink.clusterBytes),
            nextRange: { dirty.nextDirtyRange(from: $0) })
        try await CopyWorkers.run(pieces, job: job) { (piece) throws(BlockError) in
            try await source.copy(piece, to: sink)
            left.clear(piece.range)
        }
    }

    /// In the granules of the working bitmap.
    private func whatToCopy(
        _ begun: BackupInstant.Begun, _ job: Job
    ) async throws(BlockError) -> DirtyBitmap {
        if options.content == .bitmap, let dirty = begun.dirty { return dirty }
        let bits = try DirtyBitmap(
            lengthBytes: volume.lengthBytes, granularityBytes: begun.working.granularityBytes)
        guard options.content == .top else {
            bits.markAll()
            return bits
        }
        var position: UInt64 = 0
        while position < volume.lengthBytes {
            try await job.pausePoint()
            let window = ByteRange(
                offset: position, end: min(position + 1 << 30, volume.lengthBytes))
            let images = volume.imagePaths
            let extents = try await volume.allExtents(in: window)
            // Depths are those of one chain.
            guard volume.imagePaths == images else { continue }
            // Snapshots made since lie over what was the top.
            let below = begun.belowTop.flatMap { images.firstIndex(of: $0) } ?? images.count
            let held = volume.held(above: below)
            for range in extents.compactMap({ held.part(of: $0) }) { bits.mark(range) }
            position = window.end
        }
        return bits
    }

    /// Until the job is given up.
    private func follow(_ point: PointInTime, _ job: Job) async throws(BlockError) {
        let mover = try PointMover(point, to: target.device)
        state.withLock { $0.mover = mover }
        job.expect(volume.lengthBytes)
        while true {
            try await job.pausePoint()
            if let failure = point.failure { throw failure }
            let bytes = try await job.insist(isRead: false) { () async throws(BlockError) in
                try await mover.moveAll()
            }
            job.advance(by: bytes)
            if bytes > 0 { continue }
            do { try await Task.sleep(for: Self.idlePause) } catch { try job.checkCancelled() }
        }
    }

    package func prepare(_ job: Job) async throws(BlockError) {
        guard job.passBeyondCancel() else {
            throw BlockError(.cancelled, "end the backup", on: "job \(job.id)")
        }
        try await makeDurable()
    }

    /// Not before all members of the transaction have come so far: a bitmap cannot be given back what
    /// it has lost.
    package func commit(_ job: Job) async {
        do throws(BlockError) { try await end(settles: options.bitmapMode != .never) } catch {
            job.noteFailure(error)
        }
    }

    package func abort(_ job: Job) async {
        await undo { job.noteFailure($0) }
    }

    /// Ends a backup whose job never began.
    package func abandon() async {
        await undo { _ in }
        await clean()
    }

    package func clean(_ job: Job) async { await clean() }

    private func clean() async {
        await ended()
        let target = target
        // What hangs goes on without the job.
        try? await Detachment.run(on: volume.name, within: Self.closingLimit) {
            () async throws(BlockError) in
            try await target.close()
        }
    }

    private func makeDurable() async throws(BlockError) {
        try await target.device.flush()
        try await volume.flush()
    }

    private func undo(_ note: (BlockError) -> Void) async {
        guard let begun = instant.begun, !state.withLock({ $0.isEnded }) else { return }
        let mover = state.withLock { $0.mover }
        let target = target
        // Whoever looks at the target afterwards finds all that was kept.
        try? await Detachment.run(on: target.name, within: Self.closingLimit) {
            () async throws(BlockError) in
            _ = try await mover?.moveAll()
        }
        // Before the point is no more: who reads the target must not meet that.
        await ended()
        begun.point.giveUp(BlockError(.cancelled, "keep the point", on: volume.name))
        var settles = options.bitmapMode == .always
        if settles {
            do throws(BlockError) {
                try await makeDurable()
                // What was not copied, or was never to be begun, is still to be copied.
                if let left = state.withLock({ $0.left }) ?? begun.dirty {
                    for range in left.dirtyRanges() { begun.working.mark(range) }
                }
            } catch {
                settles = false
            }
        }
        do throws(BlockError) { try await end(settles: settles) } catch { note(error) }
    }

    private func end(settles: Bool) async throws(BlockError) {
        var failure: BlockError?
        for _ in 0..<Self.endingTries {
            guard let step = instant.end(settles: settles) else { return }
            do throws(BlockError) {
                try await QuietTransaction.run([step], deadline: Self.endingLimit)
                state.withLock { $0.isEnded = true }
                return
            } catch {
                guard error.kind == .busy || error.kind == .timedOut else { throw error }
                failure = error
            }
        }
        if let failure { throw failure }
    }
}

/// A target that is written by a backup.
private final class TargetSink: PieceSink {
    let writtenBytes = Counter()
    let clusterBytes: UInt64
    private let target: TargetImage
    private let compressor: (any ClusterCompressing)?
    private let job: Job

    init(_ target: TargetImage, isCompressed: Bool, _ job: Job) {
        self.target = target
        self.job = job
        compressor = isCompressed ? target.compressor : nil
        clusterBytes = max(target.unitBytes, isCompressed ? target.device.allocationUnitBytes : 1)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        if source.readOnlyBytes.isAllZero { return try await writeZeroes(range) }
        try await job.insist(isRead: false) { () async throws(BlockError) in
            if let compressor {
                try await compressor.writeCompressed(at: offset, from: source)
            } else {
                try await target.device.write(at: offset, from: source)
            }
        }
        writtenBytes.add(UInt64(source.count))
    }

    func writeZeroes(_ range: ByteRange) async throws(BlockError) {
        if target.isZero { return }
        try await job.insist(isRead: false) { () async throws(BlockError) in
            try await target.device.writeZeroes(range, mayUnmap: true)
        }
    }
}

package import BlockCore
import Synchronization
package import Volumes

// Copies what images below the top of a volume hold into the one below them, and takes them out of
// the chain in the end. Nobody writes them, and what is copied is hidden until then: so this takes
// one pass, and no guest notices. Where the top itself is to be committed, a mirror does it
// (`TargetImage.base`).
//
//   run       the base is opened for writing and made long enough; the pieces
//   prepare   the base is durable, the image above the ones that leave names it; they leave
//   clean     the base is for reading again, the images are others' again

/// Commits images between others of a volume's chain.
package final class CommitJob: JobBody {
    private let segment: ChainSegment
    private let base: String
    private let backingName: String?
    private let claim: String
    private let copiedBytes = Counter()
    private let isWriting = Atomic(false)

    private static let workerCount = 8

    /// Makes the body of a job, for which the images of `segment` have been claimed as `claim`, with
    /// the one above and the one below.
    package init(
        _ segment: ChainSegment, into base: String, claim: String, backingName: String? = nil
    ) {
        self.segment = segment
        self.base = base
        self.claim = claim
        self.backingName = backingName
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        guard let source = segment.source else {
            throw BlockError(
                .invalid, "commit", on: segment.volume.name, detail: "there is nothing to commit")
        }
        try await segment.volume.beginWriting(base)
        isWriting.store(true, ordering: .releasing)
        try await segment.volume.growImage(base, to: source.lengthBytes)
        guard let target = segment.device(base) else {
            throw BlockError(.invalid, "commit", on: base, detail: "it is not in the chain")
        }
        let tail = segment.tail
        job.expect(source.lengthBytes + tail.lengthBytes)
        let pieces = PieceSource(segment, source, to: base, for: job)
        try await CopyWorkers.run(pieces, workerCount: Self.workerCount, job: job) {
            [self] (piece) throws(BlockError) in
            try await copy(piece, from: source, to: target, job)
        }
        if !tail.isEmpty { try await zero(tail, of: target, job) }
        try await job.insist(isRead: false) { () async throws(BlockError) in
            try await target.flush()
        }
        try job.checkCancelled()
        return .commit(
            CommitOutcome(
                volume: segment.volume.name, base: base, copiedBytes: copiedBytes.value,
                duration: ContinuousClock.now - started))
    }

    package func prepare(_ job: Job) async throws(BlockError) {
        try await segment.drop(naming: backingName)
    }

    package func clean(_ job: Job) async {
        if isWriting.load(ordering: .acquiring) {
            do throws(BlockError) { try await segment.volume.endWriting(base) } catch {
                job.noteFailure(error)
            }
        }
        segment.volume.releaseImages(of: claim)
    }

    private func copy(
        _ piece: Piece, from source: any BlockDevice, to target: any BlockDevice, _ job: Job
    ) async throws(BlockError) {
        if piece.isZero { return try await zero(piece.range, of: target, job) }
        let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
            .prefix(Int(piece.range.lengthBytes))
        try await job.admit(piece.range.lengthBytes)
        try await job.insist(isRead: true) { () async throws(BlockError) in
            try await source.read(at: piece.range.offset, into: content)
        }
        try await job.insist(isRead: false) { () async throws(BlockError) in
            try await target.write(at: piece.range.offset, from: content)
        }
        copiedBytes.add(piece.range.lengthBytes)
    }

    private func zero(
        _ range: ByteRange, of target: any BlockDevice, _ job: Job
    ) async throws(BlockError) {
        try await job.insist(isRead: false) { () async throws(BlockError) in
            let extents = try await target.allExtents(in: range)
            // Zeroes of the base's own backing may hide nothing once that is another's.
            if extents.allSatisfy({ $0.isZero && $0.depth == 0 }) { return }
            try await target.writeZeroes(range, mayUnmap: true)
        }
    }
}

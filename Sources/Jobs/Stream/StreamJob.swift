package import BlockCore
import Repository
import Synchronization
package import Volumes

// Copies what images of a volume's chain hold into the image above them, while guests use the
// volume, and takes them out of the chain in the end. Many pieces are in flight; what guests have
// written meanwhile stays. What was copied before an interruption is in the image, so a later run
// only looks for what is missing.
//
//   run       the pieces, as many at a time as the guests' own requests leave room for
//   prepare   the images leave the chain: nothing but that is to be undone
//   clean     the image above is as it was opened, the images are others' again

/// Makes an image of a volume's chain depend on no other, or on fewer.
package final class StreamJob: JobBody {
    private let segment: ChainSegment
    private let source: StreamSource
    private let backingName: String?
    private let pace: IdlePace?
    private let didDrop: @Sendable () async -> Void
    private let claim: String
    private let copiedBytes = Counter()
    /// The first piece that could not be read, if that is to be ignored.
    private let skipped = FirstFailure()
    private let isWriting = Atomic(false)

    private static let workerCount = 8

    /// Makes the body of a job, for which the images of `segment` have been claimed as `claim`.
    /// `backingName` is what the header of the image above is to name in the end. With `isIdle` it
    /// gives way to guests. `didDrop` is called when the images are out of the chain.
    package init(
        _ segment: ChainSegment, from source: StreamSource, claim: String,
        backingName: String? = nil, isIdle: Bool = true,
        didDrop: @escaping @Sendable () async -> Void = {}
    ) {
        self.segment = segment
        self.source = source
        self.claim = claim
        self.backingName = backingName
        self.didDrop = didDrop
        pace = isIdle ? IdlePace(segment.volume.guestLoad, countMax: Self.workerCount) : nil
    }

    /// Cancelled or failed, it leaves the volume as usable as it was, over the same images.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        try await beginWriting()
        let pieces = try await StreamPieces(source, of: segment, for: job)
        do throws(BlockError) { try await copy(pieces, job) } catch {
            await pieces.close()
            throw error
        }
        await pieces.close()
        if let failure = skipped.value { throw failure }
        try job.checkCancelled()
        var pointID: String?
        if case .point(_, let id) = source { pointID = id.text }
        return .stream(
            StreamOutcome(
                pointID: pointID, volume: segment.volume.name, copiedBytes: copiedBytes.value,
                duration: ContinuousClock.now - started))
    }

    package func prepare(_ job: Job) async throws(BlockError) {
        try await segment.drop(naming: backingName)
    }

    package func commit(_ job: Job) async { await didDrop() }

    package func clean(_ job: Job) async {
        if isWriting.load(ordering: .acquiring), let upper = segment.upper {
            do throws(BlockError) { try await segment.volume.endWriting(upper) } catch {
                job.noteFailure(error)
            }
        }
        segment.volume.releaseImages(of: claim)
    }

    /// The top is open for writing already.
    private func beginWriting() async throws(BlockError) {
        guard let upper = segment.upper, upper != segment.volume.imagePaths.first,
            !segment.going.isEmpty
        else { return }
        try await segment.volume.beginWriting(upper)
        isWriting.store(true, ordering: .releasing)
    }

    private func copy(_ pieces: StreamPieces, _ job: Job) async throws(BlockError) {
        if case .point(_, let pointID) = source {
            guard pieces.lengthBytes == segment.volume.lengthBytes else {
                throw BlockError(
                    .invalid, "stream", on: segment.volume.name,
                    detail: "it has \(segment.volume.lengthBytes) bytes, the point \(pointID) has "
                        + "\(pieces.lengthBytes)")
            }
        }
        let tail = segment.tail
        job.expect(pieces.lengthBytes + tail.lengthBytes)
        try await CopyWorkers.run(
            workerCount: Self.workerCount, job: job,
            next: { () async throws(BlockError) in try await pieces.next() },
            lengthBytes: { $0.range.lengthBytes }
        ) { [self] (piece) throws(BlockError) in
            try await copy(piece, of: pieces, job)
        }
        if !tail.isEmpty { try await zero(tail, job) }
    }

    private func copy(
        _ piece: StreamPieces.Item, of pieces: StreamPieces, _ job: Job
    ) async throws(BlockError) {
        // Without a backing, what an image does not hold is zeroes.
        if piece.isZero, segment.lower == nil { return }
        guard try await !segment.missing(in: piece.range).isEmpty else { return }
        if piece.isZero { return try await zero(piece.range, job) }
        try await pace?.begin(job)
        defer { pace?.end() }
        let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
            .prefix(Int(piece.range.lengthBytes))
        try await job.admit(piece.range.lengthBytes)
        guard try await read(piece, of: pieces, into: content, job) else { return }
        guard let pace else { return try await store(piece.range, content, job) }
        try await pace.store(
            piece.range, unitBytes: segment.unitBytes,
            flush: { () async throws(BlockError) in try await segment.flushUpper() },
            { (part) async throws(BlockError) in
                let offset = Int(part.offset - piece.range.offset)
                try await store(part, content.slice(offset, Int(part.lengthBytes)), job)
            })
    }

    private func store(
        _ range: ByteRange, _ content: BufferSlice, _ job: Job
    ) async throws(BlockError) {
        copiedBytes.add(
            try await job.insist(isRead: false) { () throws(BlockError) in
                try await segment.populate(range, from: content)
            })
    }

    private func zero(_ range: ByteRange, _ job: Job) async throws(BlockError) {
        _ = try await job.insist(isRead: false) { () throws(BlockError) in
            try await segment.populate(range, from: nil)
        }
    }

    /// Reads a piece as often as the policy wants. False if the policy ignores that it cannot be
    /// read: a stream goes on with the next piece, but not without the images.
    private func read(
        _ piece: StreamPieces.Item, of pieces: StreamPieces, into content: BufferSlice, _ job: Job
    ) async throws(BlockError) -> Bool {
        while true {
            do throws(BlockError) {
                try await pieces.read(piece, into: content)
                return true
            } catch {
                guard try await job.decide(on: error, isRead: true) == .ignore else { continue }
                skipped.report(error)
                return false
            }
        }
    }
}

package import BlockCore
package import Repository
package import Volumes

// Copies what a volume lacks of the point below it into the volume's own image, while guests use
// it. Many pieces are in flight, each proven by its digests; what guests have written meanwhile
// stays. What was copied before an interruption is in the image, so a later run only looks for
// what is missing.

/// Makes a volume that is an overlay of a point depend on nothing.
package struct StreamJob: Sendable {
    package var volume: Volume
    package var repository: AttachedRepository
    package var pointID: PointID
    /// The pin of the point in the catalog.
    package var pinID: String

    private static let workerCount = 8

    package init(
        volume: Volume, repository: AttachedRepository, pointID: PointID, pinID: String
    ) {
        self.volume = volume
        self.repository = repository
        self.pointID = pointID
        self.pinID = pinID
    }

    /// Cancelled or failed, it leaves the volume as usable as it was, over the point.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        let reader = try await repository.repository.openReader(pointID, isSalvaging: false)
        let copiedBytes = Counter()
        // The first piece that could not be read, if that is to be ignored.
        let skipped = FirstFailure()
        do throws(BlockError) {
            guard reader.lengthBytes == volume.lengthBytes else {
                throw BlockError(
                    .invalid, "stream", on: volume.name,
                    detail: "it has \(volume.lengthBytes) bytes, the point \(pointID) has "
                        + "\(reader.lengthBytes)")
            }
            job.expect(reader.lengthBytes)
            try await CopyWorkers.run(
                workerCount: Self.workerCount, job: job,
                next: { () async throws(BlockError) in try reader.next() },
                lengthBytes: { $0.range.lengthBytes }
            ) { [volume] (piece) throws(BlockError) in
                copiedBytes.add(
                    try await Self.copy(piece, of: reader, to: volume, job, skipping: skipped))
            }
        } catch {
            try? await reader.close()
            throw error
        }
        try await reader.close()
        if let failure = skipped.value { throw failure }
        try job.checkCancelled()
        try await volume.forgetBacking(pinID: pinID)
        return .stream(
            StreamOutcome(
                pointID: pointID.text, volume: volume.name, copiedBytes: copiedBytes.value,
                duration: ContinuousClock.now - started))
    }

    private static func copy(
        _ piece: PointPiece, of reader: PointReader, to volume: Volume, _ job: Job,
        skipping skipped: FirstFailure
    ) async throws(BlockError) -> UInt64 {
        // Nothing is kept where the image holds nothing, and without a backing that is zeroes.
        guard !piece.isZero, try await !volume.unpopulatedRanges(in: piece.range).isEmpty else {
            return 0
        }
        let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
            .prefix(Int(piece.range.lengthBytes))
        try await job.admit(piece.range.lengthBytes)
        do throws(BlockError) {
            try await read(piece, of: reader, into: content, job)
        } catch {
            guard job.options.onSourceError == .ignore, error.kind != .cancelled else {
                throw error
            }
            skipped.report(error)
            return 0
        }
        return try await job.insist(isRead: false) { () throws(BlockError) in
            try await volume.populate(piece.range, from: content)
        }
    }

    /// Reads a piece as often as the policy wants. What the policy ignores is thrown: a stream goes
    /// on with the next piece, but not without the point.
    private static func read(
        _ piece: PointPiece, of reader: PointReader, into content: BufferSlice, _ job: Job
    ) async throws(BlockError) {
        while true {
            do throws(BlockError) {
                _ = try await reader.read(piece, into: content)
                return
            } catch {
                guard try await job.decide(on: error, isRead: true) == .retry else { throw error }
            }
        }
    }
}

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
    /// Bytes per second that it may copy, 0 for no limit.
    package var speedBytes: UInt64

    private static let workerCount = 8

    package init(
        volume: Volume, repository: AttachedRepository, pointID: PointID, pinID: String,
        speedBytes: UInt64 = 0
    ) {
        self.volume = volume
        self.repository = repository
        self.pointID = pointID
        self.pinID = pinID
        self.speedBytes = speedBytes
    }

    /// Cancelled or failed, it leaves the volume as usable as it was, over the point.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        let reader = try await repository.repository.openReader(pointID, isSalvaging: false)
        let copiedBytes = Counter()
        let limiter = RateLimiter(bytesPerSecond: speedBytes)
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
                copiedBytes.add(try await Self.copy(piece, of: reader, to: volume, limiter))
            }
        } catch {
            try? await reader.close()
            throw error
        }
        try await reader.close()
        try job.checkCancelled()
        try await volume.forgetBacking(pinID: pinID)
        return .stream(
            StreamOutcome(
                pointID: pointID.text, volume: volume.name, copiedBytes: copiedBytes.value,
                duration: ContinuousClock.now - started))
    }

    private static func copy(
        _ piece: PointPiece, of reader: PointReader, to volume: Volume, _ limiter: RateLimiter
    ) async throws(BlockError) -> UInt64 {
        // Nothing is kept where the image holds nothing, and without a backing that is zeroes.
        guard !piece.isZero, try await !volume.unpopulatedRanges(in: piece.range).isEmpty else {
            return 0
        }
        let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
            .prefix(Int(piece.range.lengthBytes))
        try await limiter.admit(piece.range.lengthBytes)
        _ = try await reader.read(piece, into: content)
        return try await volume.populate(piece.range, from: content)
    }
}

import Bitmaps
import BlockCore
package import Catalog
package import Foundation
package import Repository
import Volumes

/// Turns one frozen volume into a point of the repository, or undoes the freeze.
struct PointMaking {
    let plan: BackupPlan
    let frozen: FrozenVolume
    let instant: FreezeInstant
    let repository: AttachedRepository
    let limiter: RateLimiter
    let job: Job

    func run() async throws(BlockError) -> BackupOutcome {
        let started = ContinuousClock.now
        let manifest: Manifest
        do throws(BlockError) {
            manifest = try await makePoint()
        } catch {
            throw await undo(after: error)
        }
        try await frozen.bitmap.promote(
            PointRecord(manifest, repositoryID: repository.id), releasing: frozen.point)
        return BackupOutcome(
            pointID: manifest.point.text, volume: plan.volume.name, repository: repository.name,
            level: manifest.level.rawValue, reason: manifest.reason.rawValue,
            dirtyBytes: frozen.dirty?.dirtyBytes ?? plan.volume.lengthBytes,
            storedBytes: manifest.image.storedBytes, duration: ContinuousClock.now - started,
            freezeDuration: instant.heldFor)
    }

    /// Merges the bitmap back. If that fails too, it stays frozen with its successor, and the next
    /// start of the agent merges the two; the error says so.
    private func undo(after cause: BlockError) async -> BlockError {
        do throws(BlockError) {
            try await frozen.bitmap.mergeBack(releasing: frozen.point)
            return cause
        } catch {
            var both = cause
            both.detail =
                "\(cause.detail ?? cause.kind.rawValue); the bitmap stays frozen until the agent "
                + "starts again, since \(error)"
            return both
        }
    }

    private func makePoint() async throws(BlockError) -> Manifest {
        let writer = try await repository.repository.beginPoint(pointPlan)
        do throws(BlockError) {
            try await copy(to: writer)
            try job.checkCancelled()
            let volume = plan.volume
            return try await writer.commit { () async throws(BlockError) in
                if !Mutant.promoteWithoutSourceFlush.isActive { try await volume.flush() }
            }
        } catch {
            await writer.abandon()
            throw error
        }
    }

    private var pointPlan: PointPlan {
        PointPlan(
            id: plan.pointID, volumeUUID: plan.volume.uuid, volumeName: plan.volume.name,
            lengthBytes: plan.volume.lengthBytes, level: plan.isIncremental ? .incremental : .full,
            reason: plan.reason, parent: plan.parent, granularityBytes: plan.granularityBytes,
            freezeTime: UTCTime(milliseconds: instant.nanoseconds / 1_000_000) ?? .now(),
            freezeMicroseconds: UInt64(max(0, instant.heldFor / .microseconds(1))))
    }

    private func copy(to writer: any PointWriter) async throws(BlockError) {
        let point = frozen.point
        let dirty = frozen.dirty
        let lengthBytes = plan.volume.lengthBytes
        let pieces = PieceSource(
            device: plan.volume, alignmentBytes: writer.clusterBytes,
            nextRange: { offset in
                if let dirty { return dirty.nextDirtyRange(from: offset) }
                return offset < lengthBytes ? ByteRange(offset: offset, end: lengthBytes) : nil
            })
        try await CopyWorkers.run(pieces, job: job) { (piece) throws(BlockError) in
            if let failure = point.failure { throw failure }
            if piece.isZero, try await point.claimZeroes(piece.range) {
                try await writer.writeZeroes(piece.range)
            } else {
                try await copyData(piece.range, from: point, to: writer)
            }
        }
    }

    /// A piece that the map called zero may be long: it is read in the same steps as data.
    private func copyData(
        _ range: ByteRange, from point: PointInTime, to writer: any PointWriter
    ) async throws(BlockError) {
        let stepBytes = max(1 << 20, writer.clusterBytes)
        var offset = range.offset
        while offset < range.end {
            let step = ByteRange(offset: offset, end: min(offset + stepBytes, range.end))
            let content = BufferPool.shared.take(Int(stepBytes)).prefix(Int(step.lengthBytes))
            try await limiter.admit(step.lengthBytes)
            try await point.read(step, into: content)
            try await writer.write(at: step.offset, from: content)
            offset = step.end
        }
    }
}

extension UTCTime {
    /// The same instant as Foundation has it.
    package var date: Date { Date(timeIntervalSince1970: Double(milliseconds) / 1000) }
}

extension PointRecord {
    /// The row of a point that a manifest describes.
    package init(_ manifest: Manifest, repositoryID: Int64) {
        self.init(
            id: manifest.point.text, repositoryID: repositoryID,
            volumeUUID: UUID(uuidString: manifest.volume.uuid) ?? UUID(),
            volumeName: manifest.volume.name, level: manifest.level.rawValue,
            reason: manifest.reason.rawValue, parentID: manifest.parent?.point.text,
            groupID: manifest.group, createdAt: manifest.freeze.time.date,
            lengthBytes: manifest.volume.lengthBytes, storedBytes: manifest.image.storedBytes)
    }
}

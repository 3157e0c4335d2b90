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
    let group: PointID?
    let repository: AttachedRepository
    let compression: PointCompression?
    let job: Job
    /// Where it waits before it publishes the point, and before that stands; nil if it does not.
    let gates: PointGates?

    /// A point that was made.
    struct Made {
        var manifest: Manifest
        var outcome: BackupOutcome
        /// Why its bitmap could not follow it; that is frozen still.
        var failure: BlockError?
    }

    func run() async throws(BlockError) -> Made {
        let started = ContinuousClock.now
        // What a compared point was found to hold.
        let changed = try DirtyBitmap(
            lengthBytes: plan.volume.lengthBytes, granularityBytes: plan.granularityBytes)
        let manifest: Manifest
        do throws(BlockError) {
            manifest = try await Detachment.run(on: repository.repository.location) {
                () async throws(BlockError) in
                try await makePoint(noting: changed)
            }
        } catch {
            throw await undo(after: error)
        }
        do throws(BlockError) { try await gates?.standing.pass() } catch {
            throw await undo(after: await withdraw(manifest, after: error))
        }
        let outcome = BackupOutcome(
            pointID: manifest.point.text, volume: plan.volume.name, repository: repository.name,
            level: manifest.level.rawValue, reason: manifest.reason.rawValue,
            dirtyBytes: frozen.dirty?.dirtyBytes ?? plan.volume.lengthBytes,
            storedBytes: manifest.image.storedBytes, duration: ContinuousClock.now - started,
            freezeDuration: instant.heldFor, worstWriteDelay: frozen.point.worstWriteDelay)
        do throws(BlockError) {
            try await end(manifest, changed)
            return Made(manifest: manifest, outcome: outcome)
        } catch {
            // Nobody reads the point any more, and no write is to be held up for it.
            frozen.point.giveUp(error)
            var failure = error
            failure.detail =
                "the point \(manifest.point) is whole, but its bitmap could not follow and stays "
                + "frozen, which is tried again: \(error.detail ?? error.kind.rawValue)"
            return Made(manifest: manifest, outcome: outcome, failure: failure)
        }
    }

    private func end(_ manifest: Manifest, _ changed: DirtyBitmap) async throws(BlockError) {
        let record = PointRecord(manifest, repositoryID: repository.id)
        switch plan.ending {
        case .promote: try await frozen.bitmap.promote(record, releasing: frozen.point)
        case .keep: try await frozen.bitmap.mergeBack(adding: record, releasing: frozen.point)
        case .restart:
            try await frozen.bitmap.restart(
                record, changed: changed, releasing: frozen.point)
        }
    }

    /// Takes the point back, which others were to stand with. If that fails, it stays, and no bitmap
    /// continues it; the error says so.
    private func withdraw(_ manifest: Manifest, after cause: BlockError) async -> BlockError {
        let repository = repository.repository
        do throws(BlockError) {
            try await Detachment.run(on: repository.location) { () async throws(BlockError) in
                try await repository.withdraw(manifest)
            }
            return cause
        } catch {
            var both = cause
            both.detail =
                "\(cause.detail ?? cause.kind.rawValue); the point \(manifest.point) could not be "
                + "taken back and stays, which harms nothing, since \(error)"
            return both
        }
    }

    /// Merges the bitmap back. If that fails too, it stays frozen with its successor; the error
    /// says so.
    private func undo(after cause: BlockError) async -> BlockError {
        do throws(BlockError) {
            try await frozen.bitmap.mergeBack(releasing: frozen.point)
            return cause
        } catch {
            var both = cause
            both.detail =
                "\(cause.detail ?? cause.kind.rawValue); the bitmap stays frozen, which is tried "
                + "again, since \(error)"
            return both
        }
    }

    private func makePoint(noting changed: DirtyBitmap) async throws(BlockError) -> Manifest {
        try job.checkCancelled()
        let writer = try await repository.repository.beginPoint(pointPlan) {
            [job] (error) throws(BlockError) in
            try await job.retry(error, isRead: false)
        }
        do throws(BlockError) {
            try await copy(to: writer, noting: changed)
            try job.checkCancelled()
            writer.note(
                PointInterference(
                    worstWriteDelayMicroseconds: frozen.point.worstWriteDelay.microseconds,
                    keptBytes: frozen.point.keptBytes))
            let volume = plan.volume
            return try await writer.commit { [job, gates] () async throws(BlockError) in
                try await gates?.publishing.pass()
                // A cancelled job may be waited for no longer, and its volume be closed.
                try job.checkCancelled()
                if Mutant.promoteWithoutSourceFlush.isActive { return }
                if !Mutant.flushBeforeFreeze.isActive { try await volume.flush() }
            }
        } catch {
            await writer.abandon()
            throw error
        }
    }

    private var pointPlan: PointPlan {
        PointPlan(
            id: plan.pointID, volumeUUID: plan.volume.uuid, volumeName: plan.volume.name,
            lengthBytes: plan.volume.lengthBytes, level: plan.level, reason: plan.reason,
            explanation: plan.explanation, parent: plan.parent,
            granularityBytes: plan.granularityBytes, compression: compression, group: group?.text,
            freezeTime: instant.time, freezeMicroseconds: instant.heldFor.microseconds)
    }

    private func copy(
        to writer: any PointWriter, noting changed: DirtyBitmap
    ) async throws(BlockError) {
        let source = PointSource(
            point: frozen.point, comparison: comparison(for: writer), changed: changed,
            job: job)
        var parent: ContentCursor?
        if plan.basis == .comparison, let manifest = plan.parent {
            parent = try await repository.repository.openContent(of: manifest.point)
        }
        let dirty = frozen.dirty
        let lengthBytes = plan.volume.lengthBytes
        let pieces = PieceSource(
            device: plan.volume, alignmentBytes: writer.clusterBytes, parent: parent,
            nextRange: { offset in
                if let dirty { return dirty.nextDirtyRange(from: offset) }
                return offset < lengthBytes ? ByteRange(offset: offset, end: lengthBytes) : nil
            })
        try await CopyWorkers.run(pieces, job: job) { (piece) throws(BlockError) in
            try await source.copy(piece, to: writer)
        }
    }

    private func comparison(for writer: any PointWriter) -> CellComparison? {
        guard plan.basis == .comparison, let parent = plan.parent else { return nil }
        return CellComparison(
            algorithm: parent.digest.algorithm, clusterBytes: writer.clusterBytes,
            rangeToHold: writer.rangeToHold)
    }
}

extension FreezeInstant {
    /// The instant as points have it.
    var time: UTCTime { UTCTime(milliseconds: nanoseconds / 1_000_000) ?? .now() }
}

extension Duration {
    /// Whole microseconds; none if it is negative.
    var microseconds: UInt64 { UInt64(max(0, self / .microseconds(1))) }
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

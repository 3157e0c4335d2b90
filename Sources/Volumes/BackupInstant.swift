package import Bitmaps
import BlockCore
import Catalog
import Synchronization

// The start of a backup to a target that no repository knows of, and what becomes of its bitmap.
//
// At one quiet instant a point in time is installed and a working bitmap begins to record. A bitmap that
// the backup uses goes on recording too, and is busy: so a crash at any moment loses nothing, and
// leaves nothing to be settled. At the end the bitmap either stays as it is (the backup failed, or it
// is not to be changed), or becomes what the working bitmap has recorded since the instant: what the
// target lacks. Before that source and target must be durable.

/// What a backup is to begin with.
package struct BackupInstantRequest: Sendable {
    package var volume: Volume
    package var jobID: String
    /// The bitmap that the backup uses.
    package var bitmapName: String?
    /// Whether only that is copied what the bitmap has marked.
    package var copiesBitmap: Bool
    /// What copies must cover whole.
    package var unitBytes: UInt64
    package var fleece: FleeceLimits

    package init(
        volume: Volume, jobID: String, bitmapName: String?, copiesBitmap: Bool, unitBytes: UInt64,
        fleece: FleeceLimits
    ) {
        self.volume = volume
        self.jobID = jobID
        self.bitmapName = bitmapName
        self.copiesBitmap = copiesBitmap
        self.unitBytes = unitBytes
        self.fleece = fleece
    }
}

/// The instant of one backup.
package final class BackupInstant: Sendable {
    /// What there is from the instant on.
    package struct Begun: Sendable {
        package let point: PointInTime
        package let working: WorkingBitmap
        /// What the bitmap had marked; nil without one.
        package let dirty: DirtyBitmap?
        /// The path of the image that was below the top, if there was one.
        package let belowTop: String?
    }

    private struct Recording: Sendable {
        let working: WorkingBitmap
        let dirty: DirtyBitmap?
    }

    package let request: BackupInstantRequest
    private let recording = Mutex<Recording?>(nil)
    private let state = Mutex<Begun?>(nil)

    package init(_ request: BackupInstantRequest) { self.request = request }

    /// What there is since the instant; nil before that.
    package var begun: Begun? { state.withLock { $0 } }

    /// The start as a part of what happens at one instant.
    package func start() -> QuietStep {
        QuietStep(
            "back up", of: request.volume,
            change: { [self] (tables, transaction) in
                var table = tables[request.volume]
                try check(table)
                try enter(&table, transaction)
                tables[request.volume] = table
            },
            follow: { [self] _ in
                install()
                return nil
            })
    }

    /// The end as a part of what happens at one instant. With `settles` the bitmap becomes what the
    /// target lacks.
    package func end(settles: Bool) -> QuietStep? {
        guard let begun else { return nil }
        var step = request.volume.endingWorkingBitmap(
            begun.working, settling: settles ? request.bitmapName : nil)
        let follow = step.follow
        step.follow = { [volume = request.volume] table in
            volume.duties.points.removeAll { $0 === begun.point }
            return follow(table)
        }
        return step
    }

    /// With the volume held.
    private func check(_ table: BitmapTable) throws(BlockError) {
        let volume = request.volume
        let other = table.working.first.map { "job '\($0.jobID)'" }
        if let user = other ?? volume.workingJobID {
            throw BlockError(
                .busy, "back up", on: volume.name,
                detail: "\(user) is at work on it: wait for that")
        }
        guard let name = request.bitmapName else { return }
        _ = try table.idle(name, of: volume.name)
    }

    private func enter(
        _ table: inout BitmapTable, _ transaction: CatalogTransaction
    ) throws(CatalogError) {
        let volume = request.volume
        var granularityBytes = volume.defaultGranularityBytes
        var dirty: DirtyBitmap?
        if let name = request.bitmapName, var entry = table[name] {
            granularityBytes = entry.record.granularityBytes
            dirty = entry.bits.copy()
            entry.jobID = request.jobID
            table[name] = entry
        }
        let bits: DirtyBitmap
        do throws(BlockError) {
            bits = try DirtyBitmap(
                lengthBytes: volume.lengthBytes, granularityBytes: granularityBytes)
        } catch {
            throw CatalogError(.other, "record writes", on: volume.name, detail: "\(error)")
        }
        let record = try transaction.insertWorkingBitmap(
            ofVolume: volume.id, granularityBytes: granularityBytes, jobID: request.jobID)
        let working = WorkingBitmap(record, bits, continues: nil)
        table.working.append(working)
        recording.withLock { $0 = Recording(working: working, dirty: dirty) }
    }

    /// After the commit, with the volume held.
    private func install() {
        guard let recording = recording.withLock({ $0 }) else { return }
        let volume = request.volume
        let granuleBytes = PointInTime.granuleBytes(
            forGranularity: recording.working.granularityBytes)
        let unit = max(request.unitBytes, granuleBytes)
        var owed = [volume.wholeRange]
        if request.copiesBitmap, let dirty = recording.dirty {
            owed = dirty.dirtyRanges().map { range in
                let whole = range.alignedOutward(to: unit)
                return ByteRange(offset: whole.offset, end: min(whole.end, volume.lengthBytes))
            }
        }
        let point = PointInTime(
            source: volume, lengthBytes: volume.lengthBytes, granuleBytes: granuleBytes,
            limits: request.fleece, owed: owed)
        volume.duties.points.append(point)
        state.withLock {
            $0 = Begun(
                point: point, working: recording.working, dirty: recording.dirty,
                belowTop: volume.chain.nodes.dropFirst().first?.path)
        }
    }
}

import Bitmaps
package import BlockCore
import Catalog
import Synchronization

// The working bitmaps of jobs: made and ended at a quiet instant and in one transaction, like
// everything that is done to bitmaps.
//
// A named bitmap that a job starts from is copied at that very instant, with its successor's bits
// if a backup is at work on it, and goes on recording. One that the job settles at its end is busy
// until then. To settle is to make it tell what the target lacks.

/// What a working bitmap begins with.
package enum WorkingSeed: Sendable, Equatable {
    case nothing
    case everything
    /// What the bitmap of that name has marked. With `settles` the job changes it at its end.
    case bitmap(String, settles: Bool)
}

extension Volume {
    /// Adds a bitmap for the job `jobID` that records from this instant on.
    package func addWorkingBitmap(
        jobID: String, granularityBytes: UInt64, seed: WorkingSeed
    ) async throws(BlockError) -> WorkingBitmap {
        guard !isReadOnly || seed != .nothing else {
            throw BlockError(.readOnly, "record writes", on: name)
        }
        return try await changeBitmaps("start a working bitmap") { [self] (table, transaction) in
            var granularity = granularityBytes
            var continues: PointReference?
            var sources: [DirtyBitmap] = []
            if case .bitmap(let bitmapName, let settles) = seed {
                var entry = try table.seed(bitmapName, of: name, settles: settles)
                granularity = entry.record.granularityBytes
                continues = entry.record.continues
                sources = [entry.bits] + (entry.successor.map { [$0.bits] } ?? [])
                if settles {
                    entry.jobID = jobID
                    table[bitmapName] = entry
                }
            }
            let bits = try DirtyBitmap(lengthBytes: lengthBytes, granularityBytes: granularity)
            if seed == .everything { bits.markAll() }
            for source in sources { bits.mergeOfSameVolume(source) }
            let record = try transaction.insertWorkingBitmap(
                ofVolume: id, granularityBytes: granularity, jobID: jobID)
            try transaction.putChunks(bits.takeDirtyChunks(), ofBitmap: record.bitmap.id)
            let working = WorkingBitmap(record, bits, continues: continues)
            table.working.append(working)
            return working
        }
    }

    /// Ends a working bitmap, and the following of writes for it. With `settling` that bitmap then
    /// tells what the target lacks; else it stays as it is.
    package func endWorkingBitmap(
        _ working: WorkingBitmap, settling bitmapName: String? = nil,
        deadline: Duration = .seconds(10)
    ) async throws(BlockError) {
        try await InstantChange.make(
            [endingWorkingBitmap(working, settling: bitmapName)], deadline: deadline)
    }

    /// The same as a part of what happens at one instant, after `settle` with the volume held.
    package func endingWorkingBitmap(
        _ working: WorkingBitmap, settling bitmapName: String? = nil,
        _ settle: @escaping InstantChange.Settle = { (_) throws(BlockError) in nil }
    ) -> InstantChange {
        InstantChange(
            volume: self, settle: settle,
            change: { (table, transaction) throws(CatalogError) in
                try table.end(working, settling: bitmapName, in: transaction)
            },
            didCommit: { volume in volume.duties.followers.removeAll { $0 === working.follower } })
    }

    /// Has `follower` told of every change from a quiet instant on, instead of the changes being
    /// marked as due; with nil they are marked again.
    package func setFollower(
        _ follower: (any WriteFollower)?, of working: WorkingBitmap
    ) async throws(BlockError) {
        try await atQuietInstant { [self] (_) throws(BlockError) in
            duties.followers.removeAll { $0 === working.follower }
            working.setFollower(follower)
            if let follower { duties.followers.append(follower) }
            duties.recording = bitmaps.withLock { $0.recording }
        }
    }

    /// What jobs left when the agent ended, or have at the moment.
    package var workingBitmaps: [WorkingBitmap] { bitmaps.withLock { $0.working } }

    /// The job that copies what is written, if there is one.
    package var workingJobID: String? { workingBitmaps.first.map { "job '\($0.jobID)'" } }
}

extension BitmapTable {
    /// The bitmap by that name, to be copied.
    fileprivate func seed(
        _ bitmapName: String, of volume: String, settles: Bool
    ) throws(BlockError) -> BitmapEntry {
        if settles { return try idle(bitmapName, of: volume) }
        guard let entry = self[bitmapName] else {
            throw Volume.noBitmap(bitmapName, of: volume)
        }
        guard !entry.record.isInconsistent else {
            throw BlockError(
                .invalid, "use bitmap '\(bitmapName)'", on: volume,
                detail: "it is inconsistent (\(entry.record.inconsistency ?? "unknown")): "
                    + "it can only be removed")
        }
        return entry
    }

    /// With the volume held: removes a working bitmap, and has `bitmapName` take its place.
    fileprivate mutating func end(
        _ ended: WorkingBitmap, settling bitmapName: String?, in transaction: CatalogTransaction
    ) throws(CatalogError) {
        guard working.contains(where: { $0 === ended }) else { return }
        working.removeAll { $0 === ended }
        try transaction.deleteBitmap(ended.record.bitmap.id)
        for index in entries.indices where entries[index].jobID == ended.jobID {
            entries[index].jobID = nil
        }
        guard let bitmapName, var entry = self[bitmapName] else { return }
        let rest = ended.unsettled.copy()
        entry.record.continues = nil
        try transaction.updateBitmap(entry.record)
        try transaction.deleteChunks(from: 0, ofBitmap: entry.record.id)
        try transaction.putChunks(rest.takeDirtyChunks(), ofBitmap: entry.record.id)
        entry.bits = rest
        self[bitmapName] = entry
    }
}

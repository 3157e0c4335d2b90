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
        let added = Mutex<WorkingBitmap?>(nil)
        try await QuietTransaction.run([
            startingWorkingBitmap(
                jobID: jobID, granularityBytes: granularityBytes, seed: seed
            ) { (working) throws(BlockError) in
                added.withLock { $0 = working }
                return nil
            }
        ])
        guard let working = added.withLock({ $0 }) else {
            preconditionFailure("the transaction took its step")
        }
        return working
    }

    /// The same as a part of what happens at one instant. `start` is told of the bitmap before the
    /// commit, and says who, if anybody, is to follow writes from that instant on; it may be called
    /// again if the instant is tried again.
    package func startingWorkingBitmap(
        jobID: String, granularityBytes: UInt64, seed: WorkingSeed,
        _ start: @escaping @Sendable (WorkingBitmap) throws(BlockError) -> (any WriteFollower)?
    ) -> QuietStep {
        QuietStep(
            "start a working bitmap", of: self,
            change: { [self] (tables, transaction) in
                guard !isReadOnly || seed != .nothing else {
                    throw BlockError(.readOnly, "record writes", on: name)
                }
                let working = try tables[self].start(
                    of: self, jobID, granularityBytes, seed, in: transaction)
                working.setFollower(try start(working))
            },
            follow: { [self] table in
                let working = table.working.first { $0.jobID == jobID }
                if let follower = working?.follower { duties.followers.append(follower) }
                return nil
            })
    }

    /// Ends a working bitmap, and the following of writes for it. With `settling` that bitmap then
    /// tells what the target lacks; else it stays as it is.
    package func endWorkingBitmap(
        _ working: WorkingBitmap, settling bitmapName: String? = nil,
        deadline: Duration = .seconds(10)
    ) async throws(BlockError) {
        try await QuietTransaction.run(
            [endingWorkingBitmap(working, settling: bitmapName)], deadline: deadline)
    }

    /// The same as a part of what happens at one instant, after `settle` with the volume held.
    package func endingWorkingBitmap(
        _ working: WorkingBitmap, settling bitmapName: String? = nil,
        _ settle: QuietStep.Settle? = nil
    ) -> QuietStep {
        QuietStep(
            "end a working bitmap", of: self, settle: settle,
            change: { [self] (tables, transaction) in
                try tables[self].end(working, settling: bitmapName, in: transaction)
            },
            follow: { [self] _ in
                duties.followers.removeAll { $0 === working.follower }
                return nil
            })
    }

    /// Has the named bitmap that the job of a working bitmap settles at its end be busy again, after
    /// a restart of the agent.
    package func reclaimBitmap(_ bitmapName: String, for working: WorkingBitmap) {
        bitmaps.withLock { table in
            guard var entry = table[bitmapName], entry.successor == nil else { return }
            entry.jobID = working.jobID
            table[bitmapName] = entry
        }
    }

    /// Commits what has changed in all bitmaps.
    package func saveBitmaps() async throws(BlockError) {
        try await persistAhead()
        try await atQuietInstant { [self] (catalog) throws(BlockError) in
            try persistAll(in: catalog) { (_) throws(CatalogError) in }
        }
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

    /// Who copies what is written, or writes it, if there is somebody.
    package var workingJobID: String? {
        if let working = workingBitmaps.first { return "job '\(working.jobID)'" }
        return isTarget.load(ordering: .acquiring) ? "a mirror whose target it is" : nil
    }
}

extension BitmapTable {
    /// With the volume held: adds a working bitmap with what `seed` says.
    fileprivate mutating func start(
        of volume: Volume, _ jobID: String, _ granularityBytes: UInt64, _ seed: WorkingSeed,
        in transaction: CatalogTransaction
    ) throws -> WorkingBitmap {
        if let other = working.first {
            throw BlockError(
                .invalid, "record writes", on: volume.name,
                detail: "job '\(other.jobID)' is at work on it: wait for that or cancel it")
        }
        var granularity = granularityBytes
        var continues: PointReference?
        var sources: [DirtyBitmap] = []
        if case .bitmap(let bitmapName, let settles) = seed {
            var entry = try self.seed(bitmapName, of: volume.name, settles: settles)
            granularity = entry.record.granularityBytes
            continues = entry.record.continues
            sources = [entry.bits] + (entry.successor.map { [$0.bits] } ?? [])
            if settles {
                entry.jobID = jobID
                self[bitmapName] = entry
            }
        }
        let bits = try DirtyBitmap(
            lengthBytes: volume.lengthBytes, granularityBytes: granularity)
        if seed == .everything { bits.markAll() }
        for source in sources { bits.mergeOfSameVolume(source) }
        let record = try transaction.insertWorkingBitmap(
            ofVolume: volume.id, granularityBytes: granularity, jobID: jobID)
        try transaction.putChunks(bits.takeDirtyChunks(), ofBitmap: record.bitmap.id)
        let started = WorkingBitmap(record, bits, continues: continues)
        working.append(started)
        return started
    }

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

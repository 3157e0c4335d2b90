import BlockCore
import Jobs

/// The restores that are under way, by where they write to: a tool that was killed and started
/// again finds the one that it had begun.
actor RunningRestores {
    private struct Entry {
        let jobID: String
        let point: String
        let isSalvaging: Bool
    }

    private var entries: [String: Entry] = [:]

    /// The job that restores that point to `place` already. Throws `busy` if another point, or the
    /// same in another way, is being restored to it.
    func job(
        at place: String, point: String, isSalvaging: Bool, in jobs: JobStore
    ) async throws(BlockError) -> String? {
        guard let entry = entries[place] else { return nil }
        guard let job = try? await jobs.job(entry.jobID), job.isUnderWay else {
            entries[place] = nil
            return nil
        }
        guard entry.point == point, entry.isSalvaging == isSalvaging else {
            throw BlockError(
                .busy, "restore", on: place,
                detail: "job \(entry.jobID) is restoring \(entry.point) to it: wait for it or "
                    + "cancel it")
        }
        return entry.jobID
    }

    /// Notes a restore that was just started.
    func add(_ jobID: String, at place: String, point: String, isSalvaging: Bool) {
        entries[place] = Entry(jobID: jobID, point: point, isSalvaging: isSalvaging)
    }
}

extension Job {
    /// Whether its work goes on and has not been cancelled.
    fileprivate var isUnderWay: Bool {
        !isCancelled && !status.isOver && status != .aborting
    }
}

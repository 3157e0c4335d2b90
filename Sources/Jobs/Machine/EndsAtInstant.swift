package import BlockCore
package import Volumes

/// Work that can end together with other things at one instant.
package protocol EndsAtInstant: JobBody {
    /// The end of `job`, which is ready, as one of several things: with what it is for, or without. It
    /// is withdrawn, and the job goes on, or it happens, and the job concludes well.
    func sharedEnding(_ job: Job, pivots: Bool) throws(BlockError) -> QuietAction
}

extension JobStore {
    /// What has a job that is ready complete, or end without that, at an instant with other things.
    package func ending(of id: String, pivots: Bool) throws -> QuietAction {
        let job = try job(id)
        try job.checkCanEnd()
        guard let body = job.body as? any EndsAtInstant else {
            throw JobRefusal.cannotEndTogether(id)
        }
        return try body.sharedEnding(job, pivots: pivots)
    }

    /// What gives a job up once everything else has happened.
    package func givingUp(_ id: String) throws(JobRefusal) -> QuietAction {
        try job(id).checkVerb(.cancel)
        var action = QuietAction()
        action.happened = { [self] _ in try? await cancel(id) }
        return action
    }
}

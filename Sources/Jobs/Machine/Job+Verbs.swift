import BlockCore

// What users ask of a job. `JobStore` finds the job, and does what concerns others too.

extension Job {
    func pause() throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            try JobVerb.pause.check(state.status, of: id)
            guard !state.isUserPaused else { throw .alreadyPaused }
            state.isUserPaused = true
        }
    }

    func resume() throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            guard state.isUserPaused else { throw .notPaused }
            try JobVerb.resume.check(state.status, of: id)
            state.isUserPaused = false
            state.ioStatus = .ok
        }
    }

    func setSpeed(_ bytesPerSecond: UInt64) throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            try JobVerb.setSpeed.check(state.status, of: id)
            state.setSpeed(bytesPerSecond)
        }
    }

    func complete() throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            try JobVerb.complete.check(state.status, of: id)
            guard state.ending != .graceful, !state.isCancelled else { throw .cannotComplete(id) }
            state.ending = .complete
        }
    }

    func change(_ change: JobChange) throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            try JobVerb.change.check(state.status, of: id)
            guard body.isChangeable else { throw .cannotChange }
            state.changes.append(change)
        }
    }

    /// Asks the job to end. Only a job that is ready can do so gracefully. True if nothing of it is
    /// at work any more that would notice.
    func cancel(isForced: Bool) throws(JobRefusal) -> Bool {
        let (isAtEnd, work) = try update { (state) throws(JobRefusal) in
            if !isForced, state.isUserPaused { throw .cannotCancelPaused(id) }
            try JobVerb.cancel.check(state.status, of: id)
            guard !state.isBeyondCancel else { throw .wrongState(id, state.status, .cancel) }
            guard isForced || !state.status.isReady else {
                // One that is completing already goes on with that.
                state.ending = state.ending ?? .graceful
                return (false, nil as Task<Result<JobResult, BlockError>, Never>?)
            }
            state.cancel()
            return (state.hasRunEnded || !state.isStarted, state.work)
        }
        work?.cancel()
        return isAtEnd
    }

    /// Throws unless it can be completed together with other things.
    func checkCanEnd() throws(JobRefusal) {
        try update { (state) throws(JobRefusal) in
            try JobVerb.complete.check(state.status, of: id)
            guard state.status == .ready, state.ending == nil, !state.isCancelled,
                !state.isUserPaused, options.autoFinalize
            else { throw .cannotEndTogether(id) }
        }
    }

    func checkVerb(_ verb: JobVerb) throws(JobRefusal) { try verb.check(status, of: id) }
}

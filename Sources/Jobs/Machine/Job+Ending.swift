package import BlockCore

// How a job starts and ends; called by `JobStore` and `JobTransaction`.

extension Job {
    /// Goes to work; false if it was given up before that.
    func begin() -> Bool {
        update { state in
            guard state.status == .created, !state.isCancelled else { return false }
            state.isStarted = true
            move(&state, to: .running)
            return true
        }
    }

    /// The task that a forced cancel is to cancel.
    func attach(_ work: Task<Result<JobResult, BlockError>, Never>) {
        let isCancelled = look { state in
            state.work = work
            return state.isCancelled
        }
        if isCancelled { work.cancel() }
    }

    /// Passes the one pause point that every job has, then runs the body.
    func runBody() async -> Result<JobResult, BlockError> {
        do throws(BlockError) {
            try await pausePoint()
            return .success(try await body.run(self))
        } catch {
            return .failure(error)
        }
    }

    /// Notes what the body's `run` came to, or that it will never be called; true if that is a
    /// success, which then waits for the others of its transaction.
    func endRun(_ result: Result<JobResult, BlockError>) -> Bool {
        update { state in
            state.hasRunEnded = true
            state.work = nil
            unsettle(&state)
            switch result {
            case .success(let result):
                state.result = result
                if state.isCancelled, body.standsOnceRun { state.isCancelled = false }
                state.isBeyondCancel = body.standsOnceRun
                if state.isCancelled { state.fail(cancellation) }
            case .failure(let error):
                state.fail(error)
            }
            guard state.error == nil else {
                move(&state, to: .aborting)
                return false
            }
            state.currentBytes = state.totalBytes
            move(&state, to: .waiting)
            return true
        }
    }

    /// Gives the job up because one of its transaction failed.
    func cancelForTransaction() {
        let work = update { state in
            state.cancel()
            return state.work
        }
        work?.cancel()
    }

    func waitForRunEnd() async { await wait { $0.hasRunEnded || !$0.isStarted } }

    /// All of its transaction wait.
    func becomePending() {
        update { state in
            move(&state, to: .pending)
            if !options.autoFinalize { tell(.pending(id: id, type)) }
        }
    }

    /// From here on a cancellation comes too late; false if one was faster.
    package func passBeyondCancel() -> Bool {
        update { state in
            guard !state.isCancelled else { return false }
            state.isBeyondCancel = true
            return true
        }
    }

    /// What came after `passBeyondCancel` did not take place: it can be cancelled again.
    package func returnBeforeCancel() { update { $0.isBeyondCancel = false } }

    /// Says that the agent ends, and gives the job up; false if it is too late for that, or too
    /// early.
    func interrupt() -> Bool {
        update { state in
            guard !state.isBeyondCancel, !state.isCancelled else { return false }
            state.isInterrupted = true
            return true
        }
    }

    /// Says what came of the job, where that is known only when it is finalized.
    package func replaceResult(_ result: JobResult) { look { $0.result = result } }

    /// Fails a job whose `run` has succeeded.
    func fail(_ error: BlockError) {
        update { state in
            state.fail(error)
            if state.status != .aborting { move(&state, to: .aborting) }
        }
    }

    /// Says that the last step of a job did not work, which cannot be undone any more.
    package func noteFailure(_ error: BlockError) {
        look { state in
            state.error = error.description
            state.failure = error
        }
    }

    /// Ends the job for good, with what its body has to do about that.
    func finish() async {
        let isGood = update { state in
            if state.error == nil, state.isCancelled { state.fail(cancellation) }
            if state.error != nil, state.status != .aborting { move(&state, to: .aborting) }
            state.hasRunEnded = true
            state.isBeyondCancel = true
            return state.error == nil
        }
        if isGood { await body.commit(self) } else { await body.abort(self) }
        await body.clean(self)
        update { state in
            if state.isStarted {
                let moment = moment(state)
                tell(
                    state.isCancelled
                        ? .cancelled(moment) : .completed(moment, error: state.error))
            }
            move(&state, to: .concluded)
        }
    }

    /// Forgets it.
    func vanish() { update { move(&$0, to: .null) } }

    /// Lets those go on who wait for the job.
    func settle() { update { $0.isSettled = true } }

    private var cancellation: BlockError { BlockError(.cancelled, "go on", on: "job \(id)") }
}

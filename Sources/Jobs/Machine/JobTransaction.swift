import BlockCore

// Jobs that end together. Every job is in a transaction, most of them alone.
//
//   one has returned     it waits until all have
//   all have returned    they are pending, and finalized: at once if all may be, else when a user says
//                        so of one of them
//   finalized            all are prepared, then all are committed
//   one fails            the others are given up by force, and each is waited for and undone

/// Some jobs of which all succeed or none does.
package actor JobTransaction {
    private enum Phase {
        case working, pending, finalizing, aborting
    }

    /// The newest first, as QEMU has them.
    private var members: [Job] = []
    private var phase = Phase.working
    private let conclude: @Sendable (Job) async -> Void

    /// `conclude` is told of each job when it has concluded.
    init(conclude: @escaping @Sendable (Job) async -> Void) {
        self.conclude = conclude
    }

    func add(_ job: Job) { members.insert(job, at: 0) }

    func remove(_ job: Job) { members.removeAll { $0 === job } }

    /// A member's `run` has returned.
    func runEnded(_ job: Job, _ result: Result<JobResult, BlockError>) async {
        guard job.endRun(result) else { return await abort(because: job) }
        guard phase == .working, members.allSatisfy({ $0.status == .waiting }) else { return }
        phase = .pending
        for member in members { member.becomePending() }
        if members.allSatisfy(\.options.autoFinalize) { await finalize() }
    }

    /// Ends all members, which are pending. Returns when they have concluded.
    func finalize() async {
        guard phase == .pending else { return }
        phase = .finalizing
        for member in members {
            do throws(BlockError) {
                try await member.body.prepare(member)
            } catch {
                member.fail(error)
                return await abort(because: member)
            }
        }
        for member in members {
            guard member.passBeyondCancel() else { return await abort(because: member) }
        }
        await finishAll()
    }

    /// A member that is pending or waiting has been given up, or has never been started. One that
    /// is just being finalized looks for that itself.
    func abortCancelled(_ job: Job) async {
        guard phase != .finalizing else { return }
        await abort(because: job)
    }

    private func abort(because job: Job) async {
        guard phase != .aborting else { return }
        phase = .aborting
        for member in members where member !== job { member.cancelForTransaction() }
        await finishAll()
    }

    private func finishAll() async {
        while let member = members.first {
            await member.waitForRunEnd()
            await member.finish()
            members.removeAll { $0 === member }
            await conclude(member)
        }
    }
}

package import BlockCore
import Synchronization
import Volumes

extension MirrorJob {
    /// How often the end is tried, and how long each time: in between, writes go on.
    private static let endingTries = 30
    private static let endingLimit = Duration.seconds(2)
    private static let closingLimit = Duration.seconds(10)

    package func prepare(_ job: Job) async throws(BlockError) {
        let pivots = state.withLock { $0.pivots } ?? false
        var failure: BlockError?
        for _ in 0..<Self.endingTries {
            do throws(BlockError) {
                let change = try ending(pivots: pivots)
                let retired = try await InstantChange.make([change], deadline: Self.endingLimit)
                return state.withLock { state in
                    state.isEnded = true
                    state.isPivoted = pivots
                    state.retired = retired
                }
            } catch {
                await target.resumeWriting()
                guard error.kind == .busy || error.kind == .timedOut else { throw error }
                failure = error
            }
            if case .failure(let failure) = await copy.pass(workerCount: copy.workerCount) {
                throw failure.error
            }
        }
        if let failure { throw failure }
    }

    /// The end of the mirror as a part of what happens at one instant.
    private func ending(pivots: Bool) throws(BlockError) -> InstantChange {
        let change = volume.endingWorkingBitmap(
            working, settling: bitmap(to: [.onSuccess, .always])
        ) { [self] (end) async throws(BlockError) in
            try await catchUp(until: end)
            try await settle()
            outcome.noteInstant(pivots: pivots)
            return nil
        }
        return pivots ? try target.pivot(of: volume, alongside: change) : change
    }

    package func abort(_ job: Job) async {
        if let error = await undo() { job.noteFailure(error) }
    }

    /// Ends the recording of writes for a job that never began.
    package func abandon() async {
        _ = await undo()
        try? await target.close()
    }

    private func undo() async -> BlockError? {
        let settled = bitmap(to: [.always])
        // What is not known to be durable stays marked.
        if settled != nil { try? await settle() }
        var failure: BlockError?
        for _ in 0..<Self.endingTries {
            do throws(BlockError) {
                try await volume.endWorkingBitmap(
                    working, settling: settled, deadline: Self.endingLimit)
                return nil
            } catch {
                failure = error
            }
        }
        return failure
    }

    package func clean(_ job: Job) async {
        let (isPivoted, retired) = state.withLock { ($0.isPivoted, $0.retired) }
        let target = target
        // What hangs goes on without the job.
        try? await Detachment.run(on: volume.name, within: Self.closingLimit) {
            () async throws(BlockError) in
            for images in retired { await images.close() }
            try await target.end(isPivoted: isPivoted)
        }
    }

    /// The bitmap that the mirror started from, if one of these modes says what becomes of it.
    private func bitmap(to modes: Set<MirrorBitmapMode>) -> String? {
        guard case .bitmap(let name, let mode) = options.sync, modes.contains(mode) else {
            return nil
        }
        return name
    }
}

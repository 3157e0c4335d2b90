import BlockCore
import Jobs
import Volumes

// A mirror that the end of the agent has interrupted goes on with what its working bitmap says that
// the target may lack, if that bitmap can be trusted and the target is still there. Otherwise it is
// undone, as a mirror that was given up.

extension Agent {
    /// Has mirrors go on that the end of an agent has interrupted.
    func registerMirrorRevival() {
        revival.register(MirrorResumption.kind) { (job) async throws(BlockError) in
            try await resume(job)
        }
    }

    /// Has the bitmaps be busy that interrupted mirrors are going to settle. Before anybody can ask
    /// for anything.
    func reclaimBitmaps(for interrupted: [InterruptedJob]) async {
        for job in interrupted {
            guard let (volume, working) = await found(job),
                let name = MirrorResumption(job.resumption)?.settledBitmap
            else { continue }
            volume.reclaimBitmap(name, for: working)
        }
    }

    private func found(_ job: InterruptedJob) async -> (Volume, WorkingBitmap)? {
        guard let id = job.resumption.bitmapID, let name = job.options.device,
            let volume = try? await volumes.volume(name),
            let working = volume.workingBitmaps.first(where: { $0.id == id })
        else { return nil }
        return (volume, working)
    }

    private func resume(_ job: InterruptedJob) async throws(BlockError) -> Job? {
        let name = job.options.device ?? ""
        let volume = try await volumes.volume(name)
        // It is gone with the commit that ended the mirror.
        guard let (_, working) = await found(job) else { return nil }
        guard let resumption = MirrorResumption(job.resumption) else {
            try await volume.endWorkingBitmap(working)
            throw BlockError(
                .corrupt, "go on with the mirror", on: name,
                detail: "what is recorded of it makes no sense")
        }
        let target: TargetImage
        do throws(BlockError) {
            guard working.isTrusted else {
                throw BlockError(
                    .invalid, "go on with the mirror", on: name,
                    detail: "what it recorded cannot be trusted: \(volume.doubt ?? "unknown")")
            }
            target = try await volumes.reopenTarget(resumption.target, for: volume)
        } catch {
            try? await volume.endWorkingBitmap(
                working, settling: working.isTrusted ? resumption.bitmapSettledInAnyCase : nil)
            throw error
        }
        let body: MirrorJob
        do throws(BlockError) {
            body = try MirrorJob(resuming: resumption, working, of: volume, to: target)
            return try await jobs.start(job.options, body)
        } catch {
            try? await volume.endWorkingBitmap(working)
            try? await target.close()
            throw error
        }
    }
}

import BlockCore
import Catalog
import Jobs
import Logging
import Volumes

// What volumes do about what is below their top.
//
// Of mode "stream" a volume has a job of its own, which goes on at the next start of the agent as any
// stream does. One that was cancelled or has failed begins anew then. When nothing is below the top
// any more the mode is "cow": a snapshot that is made later stays what it is.

/// Changes the backing modes of volumes, and runs the streams that they ask for.
struct BackingModes: Sendable {
    let queue: CatalogQueue
    let volumes: VolumeStore
    let jobs: JobStore
    let chains: ChainJobs
    let overlays: PointOverlays
    let log: Logger

    /// Changes the mode of a volume. A stream that cannot begin leaves the mode as it was; one of
    /// the mode's own ends with the mode.
    func set(_ mode: BackingMode, of volume: Volume) async throws(BlockError) {
        guard mode == .cow || !volume.isReadOnly else {
            throw BlockError(.readOnly, "set the backing mode", on: volume.name)
        }
        if mode == .stream {
            guard volume.hasBacking else {
                throw BlockError(
                    .invalid, "set the backing mode", on: volume.name,
                    detail: "there is nothing below its top to be copied")
            }
            let before = try await volumes.records().map(\.volume)
                .first { $0.id == volume.id }?.backingMode
            // First: a stream that has little to do records the end of the mode.
            try await record(mode, of: volume)
            do throws(BlockError) { try await stream(volume) } catch {
                try await record(before ?? .cow, of: volume)
                throw error
            }
        } else {
            try? await jobs.cancel(Self.jobID(of: volume))
            try await record(mode, of: volume)
        }
    }

    /// After a start, when interrupted jobs go on: begins the streams that are not at work.
    func resume() async {
        let records = (try? await volumes.records().map(\.volume)) ?? []
        for record in records where record.backingMode == .stream {
            guard let volume = try? await volumes.volume(record.name) else { continue }
            do throws(BlockError) {
                if volume.hasBacking {
                    try await stream(volume)
                } else {
                    try await self.record(.cow, of: volume)
                }
            } catch {
                guard error.kind != .busy else { continue }
                log.warning("volume \(volume.name) does not become independent: \(error)")
            }
        }
    }

    private static func jobID(of volume: Volume) -> String {
        let id = "stream-\(volume.name)"
        return JobStore.isWellFormed(id) ? id : "stream-volume-\(volume.id)"
    }

    /// Has the volume's own stream run, and its mode change when that is done.
    private func stream(_ volume: Volume) async throws(BlockError) {
        let job = try await running(volume)
        Task {
            await job.wait()
            guard job.error == nil, !volume.hasBacking else { return }
            do throws(BlockError) { try await record(.cow, of: volume) } catch {
                log.warning("\(error)")
            }
        }
    }

    private func running(_ volume: Volume) async throws(BlockError) -> Job {
        let id = Self.jobID(of: volume)
        if let job = try? await jobs.job(id), !job.status.isOver { return job }
        let options = JobOptions(id: id, type: .stream, device: volume.name)
        if try await overlays.isOverlay(volume) { return try await overlays.stream(options) }
        return try await chains.stream(
            options, StreamRequest(image: volume.imagePaths[0]), of: volume)
    }

    private func record(_ mode: BackingMode, of volume: Volume) async throws(BlockError) {
        volume.setBackingMode(mode)
        try await queue.change("set the backing mode of \(volume.name)") {
            (transaction) throws(CatalogError) in
            try transaction.setBackingMode(mode, volume: volume.id)
        }
    }
}

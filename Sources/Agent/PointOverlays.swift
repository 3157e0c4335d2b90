import BlockCore
import Catalog
import Jobs
import Logging
import Repository
import Volumes

// Volumes that are overlays of points: served at once, copied behind.
//
//   catalog: a pin to come, pin in the repository, the chain proven, the overlay made,
//   catalog: the volume with its bitmap and the pin, export, stream … catalog: no pin needed,
//   pin away, catalog: no pin
//
// A pin is known to the catalog before it is made and until it is gone. So whatever a crash leaves
// is settled at the next start: a pin without a volume is taken away, with the overlay that may
// have been made for it, and the stream of a volume that still depends on its point goes on.

/// Makes overlays of points, and runs the streams that make them independent.
actor PointOverlays {
    private let queue: CatalogQueue
    private let volumes: VolumeStore
    private let repositories: RepositoryStore
    private let chains: ChainJobs
    private let jobs: JobStore
    private let log: Logger
    private let volumesFolder: String
    private let host: String
    /// Pins whose volume is about to be made.
    private var unfinished: Set<String> = []
    /// The stream of each volume that has one.
    private var streams: [String: Job] = [:]

    init(
        queue: CatalogQueue, volumes: VolumeStore, repositories: RepositoryStore, jobs: JobStore,
        stateDirectory: String, log: Logger
    ) {
        self.queue = queue
        self.volumes = volumes
        self.repositories = repositories
        self.jobs = jobs
        chains = ChainJobs(volumes: volumes, jobs: jobs)
        self.log = log
        volumesFolder = "\(stateDirectory)/volumes"
        host = stateDirectory
    }

    /// Makes the volume `name` over the point.
    func makeVolume(_ name: String, over point: FoundPoint) async throws(BlockError) -> Volume {
        try await volumes.holdName(name)
        let pin = PointPin(of: point.id, holder: "volume \(name) of \(host)")
        unfinished.insert(pin.id)
        let result: Result<Volume, BlockError>
        do throws(BlockError) {
            result = .success(try await makeVolume(name, over: point, pin))
        } catch {
            result = .failure(error)
        }
        unfinished.remove(pin.id)
        await volumes.releaseName(name)
        if case .failure = result { await release([pin.id]) }
        return try result.get()
    }

    private func makeVolume(
        _ name: String, over point: FoundPoint, _ pin: PointPin
    ) async throws(BlockError) -> Volume {
        let attached = point.repository
        try await queue.change("change the pins") { (transaction) throws(CatalogError) in
            try transaction.insertPin(
                PinRecord(
                    id: pin.id,
                    point: PointReference(
                        repositoryID: attached.id, pointID: point.id.text)))
        }
        try await attached.repository.pin(pin)
        let reader = try await attached.repository.openReader(point.id, isSalvaging: false)
        try await reader.close()
        let folder = volumesFolder
        try await IOPool.background.run { () throws(BlockError) in
            try HostDirectory.create(folder)
            let freeBytes = try HostDirectory.freeBytes(at: folder)
            guard freeBytes > reader.storageBytes else {
                throw BlockError(
                    .noSpace, "restore", on: name,
                    detail: "\(reader.storageBytes) bytes are needed, the file system of "
                        + "\(folder) has \(freeBytes) free")
            }
        }
        return try await volumes.createOverlay(
            name, path: overlayPath(name, pin.id),
            of: (attached.repository.backingPath(of: point.id), .qcow2),
            lengthBytes: reader.lengthBytes,
            origin: VolumeOrigin(
                of: reader.manifest, in: attached, isExact: true, pinID: pin.id))
    }

    /// Has streams go on that the end of an agent has interrupted.
    nonisolated func register(with revival: JobRevival) {
        revival.register(Self.resumption.kind) { (job) async throws(BlockError) in
            try await self.stream(job.options)
        }
    }

    private static let resumption = JobResumption(kind: "stream")

    /// Whether the volume depends on a point.
    func isOverlay(_ volume: Volume) async throws(BlockError) -> Bool {
        try await pins().contains { $0.volumeID == volume.id }
    }

    /// Starts the copying of the point that the volume `options.device` is an overlay of, unless
    /// that is under way.
    func stream(_ options: JobOptions, isIdle: Bool = true) async throws(BlockError) -> Job {
        let name = options.device ?? ""
        if let running = streams[name], running.status != .concluded, running.status != .null {
            guard running.isCancelled else { return running }
            await running.wait()
        }
        let volume = try await volumes.volume(name)
        guard let pin = try await pins().first(where: { $0.volumeID == volume.id }),
            let pointID = PointID(pin.point.pointID)
        else {
            throw BlockError(
                .invalid, "stream", on: name, detail: "it does not depend on a restore point")
        }
        let repository = try await repositories.repository(id: pin.point.repositoryID)
        let paths = volume.imagePaths
        // Snapshots made since lie between, and have no digests.
        let pointPath = try await repository.repository.backingPath(of: pointID)
        let isNext = paths.count > 1 && paths[1] == pointPath
        var options = options
        options.resumption = Self.resumption
        let job = try await chains.stream(
            options, StreamRequest(image: paths[0], isIdle: isIdle), of: volume,
            from: isNext ? .point(repository, pointID) : .images,
            didDrop: { await self.release([pin.id]) })
        Task { [log] in
            await job.wait()
            guard let error = job.error else { return }
            log.warning("volume \(name) still depends on point \(pointID): \(error)")
        }
        streams[name] = job
        return job
    }

    /// Ends the stream of a volume that is about to be removed.
    func endStream(of name: String) async {
        guard let job = streams.removeValue(forKey: name) else { return }
        try? await jobs.cancel(job.id)
        await job.wait()
    }

    /// Takes away the pins that no volume needs any more.
    func releaseUnused() async { await settle(startingStreams: false) }

    /// After a start: takes away what a crash left, and lets the streams go on.
    func resume() async {
        do throws(BlockError) {
            let paths = try await volumes.records().flatMap(\.nodes).map(\.path)
            let folder = volumesFolder
            let removed = try await IOPool.background.run { () throws(BlockError) in
                try RestoreSweep.run(folder: folder, paths: paths)
            }
            for path in removed { log.notice("removed \(path), left by a restore that ended") }
        } catch {
            log.warning("what restores left could not be looked for: \(error)")
        }
        await settle(startingStreams: true)
    }

    private func settle(startingStreams: Bool) async {
        let pins = (try? await pins()) ?? []
        await release(pins.filter { $0.volumeID == nil }.map(\.id))
        guard startingStreams else { return }
        for volume in await volumes.volumes() {
            guard let pin = pins.first(where: { $0.volumeID == volume.id }) else { continue }
            do throws(BlockError) {
                if volume.hasBacking {
                    _ = try await stream(JobOptions(type: .stream, device: volume.name))
                } else {
                    // It had been detached when the agent went down.
                    try await queue.change("change the pins") {
                        (transaction) throws(CatalogError) in
                        try transaction.givePin(pin.id, toVolume: nil)
                    }
                    await release([pin.id])
                }
            } catch {
                log.warning("the stream of volume \(volume.name) does not go on: \(error)")
            }
        }
    }

    /// Takes those of the pins away that no volume needs; what fails is tried again at the next
    /// start.
    private func release(_ ids: [String]) async {
        do throws(BlockError) {
            let nodes = try await volumes.records().flatMap(\.nodes).map(\.path)
            for pin in try await pins()
            where ids.contains(pin.id) && pin.volumeID == nil && !unfinished.contains(pin.id) {
                try await removeOverlay(of: pin.id, unlessIn: nodes)
                let repository = try await repositories.repository(id: pin.point.repositoryID)
                if let point = PointID(pin.point.pointID) {
                    try await repository.repository.unpin(pin.id, of: point)
                }
                try await queue.change("change the pins") { (transaction) throws(CatalogError) in
                    try transaction.deletePin(pin.id)
                }
            }
        } catch {
            log.warning("a pin of a restore point is still to be taken away: \(error)")
        }
    }

    private func removeOverlay(
        of pinID: String, unlessIn nodes: [String]
    ) async throws(BlockError) {
        try await IOPool.background.run { [volumesFolder] () throws(BlockError) in
            guard HostDirectory.exists(volumesFolder) else { return }
            for name in try HostDirectory.names(in: volumesFolder)
            where name.hasSuffix(".\(pinID).qcow2") && !nodes.contains("\(volumesFolder)/\(name)") {
                try HostDirectory.removeFile("\(volumesFolder)/\(name)")
            }
        }
    }

    private func overlayPath(_ name: String, _ pinID: String) -> String {
        "\(volumesFolder)/\(name).\(pinID).qcow2"
    }

    private func pins() async throws(BlockError) -> [PinRecord] {
        try await queue.run { (catalog) throws(BlockError) in
            do throws(CatalogError) {
                return try catalog.read { (snapshot) throws(CatalogError) in
                    try snapshot.pins()
                }
            } catch {
                throw BlockError(catalog: error, "list the pins")
            }
        }
    }
}

package import BlockCore
import Catalog
package import Repository
package import Volumes

// A restore of one point, with all that it stands on.
//
//   open      the chain, refused if it has a gap; its tables must make its content digest
//   space     what is needed, and what there is
//   copy      every piece proven by its digests before it is written
//   publish   the image, durable by now, gets its name
//   register  as a volume, with a clean bitmap that continues the point
//
// What was interrupted is taken up by the same restore later: see `RestoreDestination`.

/// Writes one point to a new image, an export, or a new volume, which then depend on nothing.
package struct RestoreJob: Sendable {
    /// What to make of the point.
    package enum Target: Sendable {
        case file(path: String)
        /// An export of an NBD server, which is overwritten.
        case export(uri: String)
        /// A new volume, its image where new volumes have theirs.
        case volume(name: String, store: VolumeStore)
    }

    package var repository: AttachedRepository
    package var pointID: PointID
    package var target: Target
    package var format: ImageFormat
    /// Whether to restore what is left of a damaged chain, and list the rest.
    package var isSalvaging: Bool
    /// Where the journals of exports are.
    package var stateDirectory: String

    package init(
        repository: AttachedRepository, pointID: PointID, target: Target, format: ImageFormat,
        isSalvaging: Bool = false, stateDirectory: String
    ) {
        self.repository = repository
        self.pointID = pointID
        self.target = target
        self.format = format
        self.isSalvaging = isSalvaging
        self.stateDirectory = stateDirectory
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        guard case .volume(let name, let store) = target else { return try await restore(job) }
        try await store.holdName(name)
        let result: Result<JobResult, BlockError>
        do throws(BlockError) {
            result = .success(try await restore(job))
        } catch {
            result = .failure(error)
        }
        await store.releaseName(name)
        return try result.get()
    }

    private func restore(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        let reader = try await openReader()
        let result: Result<RestoreOutcome, BlockError>
        do throws(BlockError) {
            job.expect(reader.lengthBytes)
            result = .success(try await restore(reader, job))
        } catch {
            result = .failure(error)
        }
        try? await reader.close()
        var outcome = try result.get()
        outcome.duration = ContinuousClock.now - started
        return .restore(outcome)
    }

    private func restore(
        _ reader: PointReader, _ job: Job
    ) async throws(BlockError) -> RestoreOutcome {
        switch target {
        case .export(let uri): try await overwrite(uri, from: reader, job)
        case .file(let path): try await makeImage(at: path, of: reader, job)
        case .volume(let name, let store):
            try await makeVolume(name, in: store, of: reader, job)
        }
    }

    private func openReader() async throws(BlockError) -> PointReader {
        do throws(BlockError) {
            return try await repository.repository.openReader(pointID, isSalvaging: isSalvaging)
        } catch {
            throw isSalvaging ? error : error.suggestingSalvage
        }
    }

    private func overwrite(
        _ uri: String, from reader: PointReader, _ job: Job
    ) async throws(BlockError) -> RestoreOutcome {
        let identity = identity(of: reader, target: uri, format: "nbd")
        let folder = "\(stateDirectory)/restores"
        let destination = try await IOPool.background.run { () throws(BlockError) in
            try RestoreDestination.export(
                at: uri, of: reader, journalFolder: folder, identity)
        }
        let outcome = try await copy(reader, to: destination, job)
        destination.journal.remove()
        return outcome
    }

    private func makeImage(
        at path: String, of reader: PointReader, _ job: Job,
        then use: (RestoreOutcome) async throws(BlockError) -> Void = { _ in }
    ) async throws(BlockError) -> RestoreOutcome {
        let identity = identity(of: reader, target: path, format: format.rawValue)
        let (destination, image) = try await IOPool.background.run {
            [format] () throws(BlockError) in
            try RestoreDestination.image(at: path, format: format, of: reader, identity)
        }
        var outcome = outcome(of: reader)
        outcome.lost = image.earlierLosses
        if let destination {
            do throws(BlockError) {
                try checkSpace(for: image, reader)
            } catch {
                await destination.abandon(
                    flushedBytes: destination.journal.isContinued ? reader.lengthBytes : 0)
                throw error
            }
            outcome = try await copy(reader, to: destination, job)
        }
        try await IOPool.background.run { () throws(BlockError) in try image.publish() }
        do throws(BlockError) {
            try await use(outcome)
        } catch {
            image.withdraw()
            throw error
        }
        try await IOPool.background.run { () throws(BlockError) in try image.conclude() }
        return outcome
    }

    private func makeVolume(
        _ name: String, in store: VolumeStore, of reader: PointReader, _ job: Job
    ) async throws(BlockError) -> RestoreOutcome {
        let path = try await store.newImagePath(name, format: format)
        return try await makeImage(at: path, of: reader, job) { (outcome) throws(BlockError) in
            _ = try await store.register(
                name, path: path, format: format, lengthBytes: reader.lengthBytes, isOwned: true,
                origin: VolumeOrigin(
                    of: reader.manifest, in: repository, isExact: outcome.lost.isEmpty))
        }
    }

    private func copy(
        _ reader: PointReader, to destination: RestoreDestination, _ job: Job
    ) async throws(BlockError) -> RestoreOutcome {
        let copy = RestoreCopy(reader, to: destination, job)
        do throws(BlockError) {
            try await copy.run()
            try await destination.finish(hasLosses: !copy.lost.isEmpty)
        } catch {
            await destination.abandon(flushedBytes: copy.completeBytes)
            throw error.kind == .corrupt && !isSalvaging ? error.suggestingSalvage : error
        }
        var outcome = outcome(of: reader)
        (outcome.writtenBytes, outcome.keptBytes) = copy.storedBytes
        outcome.lost = copy.lost.all
        return outcome
    }

    /// Throws unless the file system has room for what the image will still need.
    private func checkSpace(for image: NewImage, _ reader: PointReader) throws(BlockError) {
        // Tables and refcounts of qcow2 take less than a thousandth.
        let wholeBytes = reader.storageBytes + reader.storageBytes / 1000 + (1 << 20)
        let neededBytes = wholeBytes - min(wholeBytes, image.storedBytes)
        let folder = HostDirectory.parent(of: image.path)
        let freeBytes = try HostDirectory.freeBytes(at: folder)
        guard freeBytes >= neededBytes else {
            throw BlockError(
                .noSpace, "restore", on: image.path,
                detail: "\(neededBytes) bytes are needed, the file system of \(folder) has "
                    + "\(freeBytes) free")
        }
    }

    private func identity(
        of reader: PointReader, target: String, format: String
    ) -> RestoreIdentity {
        RestoreIdentity(
            point: reader.point.text, contentDigest: reader.manifest.contentDigest,
            target: target, format: format, lengthBytes: reader.lengthBytes,
            isSalvaging: isSalvaging)
    }

    private func outcome(of reader: PointReader) -> RestoreOutcome {
        let (name, isVolume) =
            switch target {
            case .file(let path): (path, false)
            case .export(let uri): (uri, false)
            case .volume(let name, _): (name, true)
            }
        return RestoreOutcome(
            pointID: pointID.text, target: name, isVolume: isVolume,
            lengthBytes: reader.lengthBytes, writtenBytes: 0, keptBytes: 0, lost: [],
            duration: .zero)
    }
}

extension BlockError {
    fileprivate var suggestingSalvage: BlockError {
        guard kind == .corrupt || kind == .notFound else { return self }
        var error = self
        error.detail =
            "\(detail ?? kind.rawValue); --salvage restores what is left and lists what is lost"
        return error
    }
}

extension VolumeOrigin {
    /// What a volume restored from the point of `manifest` continues; its content only if that
    /// `isExact`.
    package init(
        of manifest: Manifest, in repository: AttachedRepository, isExact: Bool,
        pinID: String? = nil
    ) {
        self.init(
            volumeUUID: manifest.volume.uuid,
            bitmap: isExact
                ? Bitmap(
                    name: repository.name, granularityBytes: manifest.granularityBytes,
                    continues: PointReference(
                        repositoryID: repository.id, pointID: manifest.point.text))
                : nil,
            pinID: pinID)
    }
}

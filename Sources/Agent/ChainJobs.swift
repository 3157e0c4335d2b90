import BlockCore
import Foundation
import Jobs
import Volumes

// Streams and commits: jobs that change the images of a volume's chain. What a job is to do is
// resolved once, when it is asked for, to paths, which stay true whatever other jobs do to the
// chain meanwhile.

/// A stream as it was asked for, for whoever lets it go on after a restart.
struct StreamRequest: Codable, Sendable {
    /// The image that is written.
    var image: String
    /// The image that stays its backing.
    var base: String?
    /// What the header of the one is to call the other.
    var backingFile: String?
    var isIdle = true
}

/// Images of a volume that are to be merged into one below them.
struct CommitRequest: Sendable {
    /// The volume's images when it was asked for; positions are those in this list.
    var images: [String]
    /// The uppermost of them; the volume's top is 0.
    var top: Int
    /// The one that is written.
    var base: Int
    /// What the header of the image above is to call it.
    var backingFile: String?
}

/// Starts jobs on the images of volumes.
struct ChainJobs: Sendable {
    let volumes: VolumeStore
    let jobs: JobStore

    static let streamKind = "image-stream"

    /// Has streams go on that the end of an agent has interrupted.
    func register(with revival: JobRevival) {
        revival.register(Self.streamKind) { (job) async throws(BlockError) in
            guard let name = job.options.device,
                let request = try? JSONDecoder().decode(
                    StreamRequest.self, from: Data(job.resumption.arguments.utf8))
            else {
                throw BlockError(
                    .invalid, "go on", on: "a stream", detail: "its record cannot be read")
            }
            return try await stream(job.options, request, of: volumes.volume(name))
        }
    }

    /// Starts a stream of images.
    func stream(
        _ options: JobOptions, _ request: StreamRequest, of volume: Volume
    ) async throws(BlockError) -> Job {
        var options = options
        let arguments = (try? JSONEncoder().encode(request))
            .map { String(decoding: $0, as: UTF8.self) }
        options.resumption = arguments.map {
            JobResumption(kind: Self.streamKind, arguments: $0)
        }
        return try await stream(options, request, of: volume, from: .images)
    }

    /// Starts a stream from `source`; `didDrop` is called when its images are out of the chain.
    func stream(
        _ options: JobOptions, _ request: StreamRequest, of volume: Volume,
        from source: StreamSource,
        didDrop: @escaping @Sendable () async -> Void = {}
    ) async throws(BlockError) -> Job {
        let paths = volume.imagePaths
        let upper = try position(of: request.image, in: volume)
        let lower = try request.base.map { (base) throws(BlockError) in
            try position(of: base, in: volume)
        }
        if let name = request.backingFile, let base = request.base {
            try volume.checkBackingName(name, of: request.image, for: base)
        }
        if upper > 0 { try await volumes.checkMayWrite(request.image, of: volume.name) }
        let end = lower ?? paths.count
        guard upper < end, end <= paths.count, paths[upper] == request.image,
            request.base == nil || paths[upper...].dropFirst(end - upper).first == request.base
        else { throw Self.haveChanged(volume) }
        let claimed = Array(paths[upper..<end])
        let claim = UUID().uuidString
        try await volume.claimImages(claimed, for: claim, type: "stream")
        do throws(BlockError) {
            // The image that stays below is nobody's, and may have gone.
            let start = try Self.start(
                of: claimed + (request.base.map { [$0] } ?? []), in: volume)
            let segment = ChainSegment(
                of: volume, below: start, above: lower == nil ? nil : start + claimed.count)
            let body = StreamJob(
                segment, from: source, claim: claim, backingName: request.backingFile,
                isIdle: request.isIdle, didDrop: didDrop)
            return try await jobs.start(options, body)
        } catch {
            volume.releaseImages(of: claim)
            throw error
        }
    }

    /// Starts a commit: one pass over images that nobody writes, or a mirror if the top is one.
    func commit(
        _ options: JobOptions, _ request: CommitRequest, of volume: Volume
    ) async throws(BlockError) -> Job {
        let paths = request.images
        let base = paths[request.base]
        if let name = request.backingFile, request.top > 0 {
            try volume.checkBackingName(name, of: paths[request.top - 1], for: base)
        }
        let changed = [base] + (request.top > 1 ? [paths[request.top - 1]] : [])
        for path in changed { try await volumes.checkMayWrite(path, of: volume.name) }
        let claim = UUID().uuidString
        let claimed = Array(paths[max(request.top - 1, 0)...request.base])
        try await volume.claimImages(claimed, for: claim, type: "commit")
        do throws(BlockError) {
            let start = try Self.start(of: claimed, in: volume)
            let isTop = request.top == 0
            guard !isTop || start == 0 else { throw Self.haveChanged(volume) }
            var request = request
            request.top = isTop ? 0 : start + 1
            request.base = start + claimed.count - 1
            guard isTop else {
                let segment = ChainSegment(
                    of: volume, below: request.top - 1, above: request.base)
                return try await jobs.start(
                    options,
                    CommitJob(
                        segment, into: base, claim: claim, backingName: request.backingFile))
            }
            return try await commitTop(options, request, of: volume, claim)
        } catch {
            volume.releaseImages(of: claim)
            throw error
        }
    }

    private func commitTop(
        _ options: JobOptions, _ request: CommitRequest, of volume: Volume, _ claim: String
    ) async throws(BlockError) -> Job {
        let target = try await TargetImage.base(
            volume.imagePaths[request.base], of: volume, for: claim)
        let body: MirrorJob
        do throws(BlockError) {
            body = try await MirrorJob(
                of: volume, to: target, jobID: options.id ?? volume.name,
                options: MirrorOptions(sync: .above(request.base)))
        } catch {
            try? await target.close()
            throw error
        }
        do throws(BlockError) { return try await jobs.start(options, body) } catch {
            await body.abandon()
            throw error
        }
    }

    /// Where the images that have just been claimed are now: what they were to be may have been
    /// decided before another change of the chain, which the claim has waited for.
    private static func start(
        of claimed: [String], in volume: Volume
    ) throws(BlockError) -> Int {
        let paths = volume.imagePaths
        guard let start = paths.firstIndex(of: claimed[0]),
            paths[start...].prefix(claimed.count).elementsEqual(claimed)
        else { throw haveChanged(volume) }
        return start
    }

    static func haveChanged(_ volume: Volume) -> BlockError {
        BlockError(
            .busy, "use the images", on: volume.name,
            detail: "its images were changed meanwhile; look at them and try again")
    }

    private func position(of path: String, in volume: Volume) throws(BlockError) -> Int {
        guard let position = volume.position(ofImage: path) else {
            throw BlockError(
                .invalid, "find the image", on: volume.name,
                detail: "\(path) is not in this backing file chain")
        }
        return position
    }
}

package import BlockCore
package import Repository
package import Volumes

/// Writes one point, with all that it depends on, into a new image that depends on nothing.
package struct RestoreJob: Sendable {
    /// What to make of the point.
    package enum Target: Sendable {
        case file(path: String)
        /// A new volume, its image where new volumes have theirs.
        case volume(name: String, store: VolumeStore)
    }

    package var repository: AttachedRepository
    package var pointID: PointID
    package var target: Target
    package var format: ImageFormat

    package init(
        repository: AttachedRepository, pointID: PointID, target: Target, format: ImageFormat
    ) {
        self.repository = repository
        self.pointID = pointID
        self.target = target
        self.format = format
    }

    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        let started = ContinuousClock.now
        let path = try await imagePath()
        let device = try await repository.repository.openPoint(pointID)
        let lengthBytes = device.lengthBytes
        job.expect(lengthBytes)
        let written: UInt64
        do throws(BlockError) {
            let sink = try await IOPool.background.run { [self] () throws(BlockError) in
                try makeSink(at: path, lengthBytes)
            }
            written = try await copy(device, to: sink, job)
        } catch {
            try? await device.close()
            throw error
        }
        try await device.close()
        if case .volume(let name, let store) = target {
            do throws(BlockError) {
                _ = try await store.register(
                    name, path: path, format: format, lengthBytes: lengthBytes, isOwned: true)
            } catch {
                try? HostDirectory.removeFile(path)
                throw error
            }
        }
        return .restore(
            RestoreOutcome(
                pointID: pointID.text, target: targetName, isVolume: isVolume,
                lengthBytes: lengthBytes,
                writtenBytes: written, duration: ContinuousClock.now - started))
    }

    private var targetName: String {
        switch target {
        case .file(let path): path
        case .volume(let name, _): name
        }
    }

    private var isVolume: Bool {
        if case .volume = target { true } else { false }
    }

    private func imagePath() async throws(BlockError) -> String {
        switch target {
        case .file(let path): path
        case .volume(let name, let store): try await store.newImagePath(name, format: format)
        }
    }

    private func makeSink(
        at path: String, _ lengthBytes: UInt64
    ) throws(BlockError) -> any RestoreSink {
        switch format {
        case .raw: try RawRestoreSink(path: path, lengthBytes: lengthBytes)
        case .qcow2: try Qcow2RestoreSink(path: path, lengthBytes: lengthBytes)
        }
    }

    private func copy(
        _ device: any BlockDevice, to sink: any RestoreSink, _ job: Job
    ) async throws(BlockError) -> UInt64 {
        let lengthBytes = device.lengthBytes
        let written = Counter()
        let pieces = PieceSource(
            device: device, alignmentBytes: sink.alignmentBytes,
            nextRange: { offset in
                offset < lengthBytes ? ByteRange(offset: offset, end: lengthBytes) : nil
            })
        do throws(BlockError) {
            try await CopyWorkers.run(pieces, job: job) { (piece) throws(BlockError) in
                guard !piece.isZero else { return }
                let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
                    .prefix(Int(piece.range.lengthBytes))
                try await device.read(at: piece.range.offset, into: content)
                written.add(try await sink.write(at: piece.range.offset, from: content))
            }
            try job.checkCancelled()
            try await sink.finish()
        } catch {
            await sink.abandon()
            throw error
        }
        return written.value
    }
}

import BlockCore
import Control
import Jobs
import Volumes

extension Agent {
    func registerMirrorCommands(in table: inout CommandTable) {
        table.on(DriveMirror.self) { arguments in
            try await mirror(MirrorRequest(arguments))
        }
        table.on(BlockdevMirror.self) { arguments in
            try await mirror(MirrorRequest(arguments))
        }
        table.on(BlockdevSnapshotSync.self) { arguments in
            guard let name = arguments.device ?? arguments.nodeName else {
                throw ControlError.generic("Cannot find device='' nor node-name=''")
            }
            guard arguments.format ?? .qcow2 == .qcow2 else {
                throw ControlError.generic("an overlay has the format qcow2")
            }
            try await volumes.snapshot(
                name, to: arguments.snapshotFile, mode: NewImageMode(arguments.mode))
            return Nothing()
        }
    }

    private func mirror(_ request: MirrorRequest) async throws -> StartedJob {
        let volume = try await volumes.volume(request.device)
        let options = try request.options(for: volume)
        let id = request.job.id ?? volume.name
        let target: TargetImage
        if request.mode == nil,
            let found = try await self.target(
                named: request.target, for: volume, user: "job \(id)",
                isPartial: options.sync != .full)
        {
            target = found
        } else {
            let specification = TargetSpecification(
                path: request.target, format: request.format, mode: request.mode ?? .existing,
                backing: request.backing(of: volume), isPartial: options.sync != .full)
            target = try await volumes.openTarget(specification, for: volume)
        }
        let body: MirrorJob
        do throws(BlockError) {
            body = try await MirrorJob(of: volume, to: target, jobID: id, options: options)
        } catch {
            try? await target.close()
            throw error
        }
        do throws(BlockError) {
            var job = request.job
            job.id = id
            return StartedJob(jobID: try await jobs.start(job, body).id)
        } catch {
            await body.abandon()
            throw error
        }
    }
}

/// What both commands ask for.
private struct MirrorRequest {
    var device: String
    var target: String
    var sync: MirrorSyncMode
    /// Nil if the target is not to be made, and may be a volume.
    var mode: NewImageMode?
    var format: Volumes.ImageFormat?
    var bitmap: String?
    var bitmapMode: BitmapSyncMode?
    var base: String?
    var granularityBytes: UInt64?
    var bufferBytes: UInt64?
    var mayUnmap = true
    var isTargetZero: Bool
    var copyMode: CopyMode
    var job: JobOptions

    init(_ arguments: DriveMirror.Arguments) {
        device = arguments.device
        target = arguments.target
        sync = arguments.sync
        mode = NewImageMode(arguments.mode)
        format = arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
        bitmap = arguments.bitmap
        bitmapMode = arguments.bitmapMode
        base = arguments.base
        granularityBytes = arguments.granularity
        bufferBytes = arguments.bufSize
        mayUnmap = arguments.unmap ?? true
        isTargetZero = arguments.targetIsZero ?? false
        copyMode = CopyMode(arguments.copyMode)
        job = JobOptions(
            id: arguments.jobID, type: .mirror, device: arguments.device,
            autoFinalize: arguments.autoFinalize ?? true,
            autoDismiss: arguments.autoDismiss ?? true, speedBytes: arguments.speed ?? 0,
            onSourceError: ErrorPolicy(arguments.onSourceError),
            onTargetError: ErrorPolicy(arguments.onTargetError))
    }

    init(_ arguments: BlockdevMirror.Arguments) {
        device = arguments.device
        target = arguments.target
        sync = arguments.sync
        bitmap = arguments.bitmap
        bitmapMode = arguments.bitmapMode
        base = arguments.base
        granularityBytes = arguments.granularity
        bufferBytes = arguments.bufSize
        isTargetZero = arguments.targetIsZero ?? false
        copyMode = CopyMode(arguments.copyMode)
        job = JobOptions(
            id: arguments.jobID, type: .mirror, device: arguments.device,
            autoFinalize: arguments.autoFinalize ?? true,
            autoDismiss: arguments.autoDismiss ?? true, speedBytes: arguments.speed ?? 0,
            onSourceError: ErrorPolicy(arguments.onSourceError),
            onTargetError: ErrorPolicy(arguments.onTargetError))
    }

    func options(for volume: Volume) throws -> MirrorOptions {
        if let granularityBytes {
            try MirrorOptions.check(granularityBytes: granularityBytes)
            guard bitmap == nil else {
                throw ControlError.generic(
                    "granularity and bitmap cannot both be given: the bitmap has a granularity")
            }
        }
        return MirrorOptions(
            sync: try mirrorSync(of: volume), copyMode: copyMode,
            granularityBytes: granularityBytes, bufferBytes: bufferBytes, mayUnmap: mayUnmap,
            isTargetZero: isTargetZero)
    }

    private func mirrorSync(of volume: Volume) throws -> MirrorSync {
        if sync == .incremental || sync == .bitmap {
            guard let bitmap else {
                throw ControlError.generic("sync mode '\(sync.rawValue)' needs a bitmap")
            }
            guard base == nil else {
                throw ControlError.generic("base and a bitmap cannot both say what to copy")
            }
            return .bitmap(bitmap, try mirrorBitmapMode())
        }
        guard bitmap == nil, bitmapMode == nil else {
            throw ControlError.generic(
                "a bitmap and its mode go with sync mode 'incremental' or 'bitmap', not "
                    + "'\(sync.rawValue)'")
        }
        if let base {
            guard sync != .none, let position = volume.imagePaths.firstIndex(of: base),
                position > 0
            else {
                throw ControlError.generic(
                    "base '\(base)' is no image below the top of volume '\(volume.name)', or does "
                        + "not go with sync mode '\(sync.rawValue)'")
            }
            return .above(position)
        }
        switch sync {
        case .none: return .none
        case .top where volume.imagePaths.count > 1: return .above(1)
        default: return .full
        }
    }

    private func mirrorBitmapMode() throws -> MirrorBitmapMode {
        if sync == .incremental {
            guard bitmapMode == nil || bitmapMode == .onSuccess else {
                throw ControlError.generic(
                    "sync mode 'incremental' means bitmap-mode 'on-success', no other")
            }
            return .onSuccess
        }
        switch bitmapMode {
        case nil: throw ControlError.generic("sync mode 'bitmap' needs a bitmap-mode")
        case .onSuccess: return .onSuccess
        case .never: return .never
        case .always: return .always
        }
    }

    /// The backing of a target that is made.
    func backing(of volume: Volume) -> TargetBacking {
        if let base, let position = volume.imagePaths.firstIndex(of: base) {
            return .ofSource(position)
        }
        switch sync {
        case .none: return .ofSource(0)
        case .top: return .ofSource(1)
        default: return .none
        }
    }
}

extension NewImageMode {
    init(_ mode: ImageMode?) {
        self =
            switch mode {
            case .existing: .existing
            case nil, .absolutePaths: .absolutePaths
            case .relativePaths: .relativePaths
            }
    }
}

extension CopyMode {
    fileprivate init(_ mode: MirrorCopyMode?) {
        self =
            switch mode {
            case nil, .background: .background
            case .writeBlocking: .writeBlocking
            }
    }
}

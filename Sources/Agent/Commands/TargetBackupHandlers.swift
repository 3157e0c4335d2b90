import BlockCore
import Control
import Jobs
import Nodes
import Volumes

// `blockdev-backup` and `drive-backup`. The instant is when the command is carried out; the job that
// copies begins after it.

extension Agent {
    func registerTargetBackupCommands(in table: inout CommandTable) {
        table.on(BlockdevBackup.self) { arguments in
            try await start(TargetBackupRequest(arguments))
        }
        table.on(DriveBackup.self) { arguments in
            try await start(TargetBackupRequest(arguments))
        }
    }

    private func start(_ request: TargetBackupRequest) async throws -> StartedJob {
        let backup = try await prepare(request, in: nil)
        try await QuietTransaction.perform([backup.action])
        return StartedJob(jobID: backup.jobID)
    }

    /// Opens or makes the target, and creates the job, which ends together with the others of
    /// `group`: nothing has begun yet.
    func prepare(
        _ request: TargetBackupRequest, in group: JobTransaction?
    ) async throws -> (action: QuietAction, jobID: String) {
        guard await nodes.node(request.device) == nil else {
            throw ControlError.generic(
                "Node '\(request.device)' is no volume: only what guests write is backed up")
        }
        let volume: Volume
        do throws(BlockError) { volume = try await volumes.volume(request.device) } catch {
            guard error.kind == .notFound else { throw error }
            throw ControlError.noSuchNode(request.device)
        }
        let options = try request.options(for: volume)
        let jobOptions = try request.jobOptions()
        let id = jobOptions.id ?? volume.name
        let target = try await target(of: request, for: volume, user: "job \(id)")
        let unitBytes = max(
            target.unitBytes, options.isCompressed ? target.device.allocationUnitBytes : 1)
        let instant = BackupInstant(
            BackupInstantRequest(
                volume: volume, jobID: id, bitmapName: request.bitmap,
                copiesBitmap: options.content == .bitmap, unitBytes: unitBytes, fleece: fleece))
        // Over the volume itself the target shows the instant from now on.
        let overlay = await nodes.node(request.target)?.imagesStanding(on: volume)
        let body: TargetBackup
        do throws(BlockError) {
            body = try TargetBackup(
                to: target, instant: instant, options: options,
                ended: { await overlay?.standOn(SharedDevice(volume)) })
        } catch {
            try? await target.close()
            throw error
        }
        let job: Job
        do throws(BlockError) {
            job = try await jobs.create(jobOptions, body, in: group ?? jobs.newTransaction())
        } catch {
            await body.abandon()
            throw error
        }
        var action = QuietAction([instant.start()])
        action.happened = { [jobs] _ in
            if options.content == .nothing, let point = instant.begun?.point {
                await overlay?.standOn(PointView(point, target: target.device))
            }
            if await !jobs.begin(job) { await body.abandon() }
        }
        action.withdraw = { [jobs] in
            await jobs.withdraw(job)
            await body.abandon()
        }
        return (action, job.id)
    }

    private func target(
        of request: TargetBackupRequest, for volume: Volume, user: String
    ) async throws -> TargetImage {
        guard let mode = request.mode else {
            let found = try await target(
                named: request.target, for: volume, user: user,
                isPartial: request.sync != .full)
            guard let found else { throw ControlError.noSuchNode(request.target) }
            return found
        }
        let backing: TargetBacking =
            switch request.sync {
            case .none: .ofSource(0)
            case .top: .ofSource(1)
            default: .none
            }
        return try await volumes.openTarget(
            TargetSpecification(
                path: request.target, format: request.format, mode: mode, backing: backing,
                isPartial: request.sync != .full),
            for: volume)
    }
}

/// What both commands ask for.
struct TargetBackupRequest {
    var device: String
    var target: String
    var sync: BackupSyncMode
    /// Nil if the target is a node or a volume.
    var mode: NewImageMode?
    var format: Volumes.ImageFormat?
    var bitmap: String?
    var bitmapMode: BitmapSyncMode?
    var isCompressed: Bool
    var speed: Int64
    var job: JobOptions

    init(_ arguments: DriveBackup.Arguments) {
        self.init(common: arguments)
        mode = NewImageMode(arguments.mode)
        format = arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
    }

    init(_ arguments: BlockdevBackup.Arguments) { self.init(common: arguments) }

    private init(common arguments: some TargetBackupArguments) {
        device = arguments.device
        target = arguments.target
        sync = arguments.sync
        bitmap = arguments.bitmap
        bitmapMode = arguments.bitmapMode
        isCompressed = arguments.compress ?? false
        speed = arguments.speed ?? 0
        job = JobOptions(copying: .backup, arguments, device: arguments.device, speedBytes: 0)
        job.id = job.id ?? arguments.device
    }

    func jobOptions() throws -> JobOptions {
        guard let bytes = UInt64(exactly: speed) else { throw ControlError.negative("speed") }
        var options = job
        options.speedBytes = bytes
        return options
    }

    /// Refuses in QEMU's words what makes no sense.
    func options(for volume: Volume) throws -> TargetBackupOptions {
        var mode = bitmapMode
        var sync = sync
        if sync == .incremental {
            guard mode == nil || mode == .onSuccess else {
                throw ControlError.generic(
                    "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
            }
            mode = .onSuccess
        }
        if sync == .incremental || sync == .bitmap, bitmap == nil {
            throw ControlError.generic(
                "must provide a valid bitmap name for '\(sync.rawValue)' sync mode")
        }
        if sync == .incremental { sync = .bitmap }
        if let bitmap { try check(bitmap, of: volume, mode, sync) }
        if bitmap == nil, mode != nil {
            throw ControlError.generic("Cannot specify bitmap sync mode without a bitmap")
        }
        return TargetBackupOptions(
            content: content(sync, of: volume),
            bitmapMode: mode.flatMap { MirrorBitmapMode(rawValue: $0.rawValue) } ?? .never,
            isCompressed: isCompressed)
    }

    private func check(
        _ bitmap: String, of volume: Volume, _ mode: BitmapSyncMode?, _ sync: BackupSyncMode
    ) throws {
        guard let status = volume.bitmapStatuses().first(where: { $0.name == bitmap }) else {
            throw ControlError.generic("Bitmap '\(bitmap)' could not be found")
        }
        guard let mode else {
            throw ControlError.generic("Bitmap sync mode must be given when providing a bitmap")
        }
        if status.isBusy { throw ControlError.bitmapBusy(bitmap) }
        if status.inconsistentReason != nil { throw ControlError.bitmapInconsistent(bitmap) }
        if sync == .none {
            throw ControlError.generic(
                "sync mode 'none' does not produce meaningful bitmap outputs")
        }
        if mode == .never, sync != .bitmap {
            throw ControlError.generic(
                "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode "
                    + "'\(sync.rawValue)'")
        }
    }

    private func content(_ sync: BackupSyncMode, of volume: Volume) -> TargetBackupContent {
        switch sync {
        case .full: .everything
        // Without a backing everything is in the top.
        case .top: volume.hasBacking ? .top : .everything
        case .none: .nothing
        case .incremental, .bitmap: .bitmap
        }
    }
}

import BlockCore
import Control
import Jobs

extension Agent {
    /// What is asked of jobs, by QEMU's newer and older names.
    func registerJobCommands(in table: inout CommandTable) {
        table.on(QueryJobs.self) { arguments in
            if let id = arguments.id { return [try JobInfo(await jobs.job(id))] }
            return try await jobs.all().map { try JobInfo($0) }
        }
        table.on(JobPause.self) { try await jobs.pause($0.id) }
        table.on(JobResume.self) { try await jobs.resume($0.id) }
        table.on(JobCancel.self) { try await jobs.cancel($0.id) }
        table.on(JobComplete.self) { try await jobs.complete($0.id) }
        table.on(JobFinalize.self) { try await jobs.finalize($0.id) }
        table.on(JobDismiss.self) { try await jobs.dismiss($0.id) }
        registerBlockJobCommands(in: &table)
    }

    private func registerBlockJobCommands(in table: inout CommandTable) {
        table.on(QueryBlockJobs.self) { _ in await jobs.all().map { BlockJobInfo($0) } }
        table.onBlockJob(BlockJobPause.self) { try await jobs.pause($0.device) }
        table.onBlockJob(BlockJobResume.self) { try await jobs.resume($0.device) }
        table.onBlockJob(BlockJobCancel.self) { arguments in
            try await jobs.cancel(arguments.device, force: arguments.force ?? false)
        }
        table.onBlockJob(BlockJobComplete.self) { try await jobs.complete($0.device) }
        table.onBlockJob(BlockJobFinalize.self) { try await jobs.finalize($0.id) }
        table.onBlockJob(BlockJobDismiss.self) { try await jobs.dismiss($0.id) }
        table.onBlockJob(BlockJobSetSpeed.self) { arguments in
            guard let speed = UInt64(exactly: arguments.speed) else {
                _ = try await jobs.job(arguments.device)
                throw ControlError.negative("speed")
            }
            try await jobs.setSpeed(speed, of: arguments.device)
        }
        table.onBlockJob(BlockJobChange.self) { arguments in
            let mode: CopyMode =
                switch arguments.copyMode {
                case .background: .background
                case .writeBlocking: .writeBlocking
                }
            try await jobs.change(.copyMode(mode), of: arguments.id)
        }
    }
}

extension CommandTable {
    /// `on` for a command that returns nothing.
    fileprivate mutating func on<Command: ControlCommand>(
        _ command: Command.Type,
        _ handler: @escaping @Sendable (Command.Arguments) async throws -> Void
    ) where Command.Result == Nothing {
        on(command) { arguments -> Nothing in
            try await handler(arguments)
            return Nothing()
        }
    }

    /// The same for a command of the older names, which tell of a missing job in another way.
    fileprivate mutating func onBlockJob<Command: ControlCommand>(
        _ command: Command.Type,
        _ handler: @escaping @Sendable (Command.Arguments) async throws -> Void
    ) where Command.Result == Nothing {
        on(command) { arguments -> Nothing in
            do {
                try await handler(arguments)
                return Nothing()
            } catch JobRefusal.noSuchJob(let id) {
                throw ControlError.noSuchBlockJob(id)
            }
        }
    }
}

extension JobInfo {
    init(_ job: Job) throws {
        let progress = job.progress
        self.init(
            id: job.id, type: job.type.rawValue, status: Control.JobStatus(job.status),
            currentProgress: progress.currentBytes, totalProgress: progress.totalBytes,
            error: job.error, errorReason: job.failure.flatMap { ControlError(block: $0).reason },
            volumes: job.options.device.map { [$0] },
            result: try job.result.map { try JSONValue(encoding: Control.JobResult($0)) },
            mirror: MirrorProgress(job))
    }
}

extension BlockJobInfo {
    init(_ job: Job) {
        let progress = job.progress
        let status = job.status
        self.init(
            type: job.type.rawValue, device: job.id, len: progress.totalBytes,
            offset: progress.currentBytes, busy: job.isBusy, paused: job.isPaused,
            speed: job.speedBytes, ioStatus: BlockIOStatus(rawValue: job.ioStatus.rawValue) ?? .ok,
            ready: status.isReady, status: Control.JobStatus(status),
            autoFinalize: job.options.autoFinalize, autoDismiss: job.options.autoDismiss,
            error: job.error, mirror: MirrorProgress(job))
    }
}

extension MirrorProgress {
    /// Nil if it is no mirror, or is over.
    init?(_ job: Job) {
        guard !job.status.isOver, let mirror = job.mirror else { return nil }
        self.init(
            copyMode: mirror.copyMode == .writeBlocking ? .writeBlocking : .background,
            dueBytes: mirror.dueBytes, dirtyingRate: mirror.rates.dirtyingBytes,
            copyingRate: mirror.rates.copyingBytes, outrun: mirror.isOutrun,
            activelySynced: mirror.isActivelySynced, resumed: mirror.isResumed)
    }
}

extension Control.JobStatus {
    init(_ status: Jobs.JobStatus) {
        self = Control.JobStatus(rawValue: status.rawValue) ?? .undefined
    }
}

extension ErrorPolicy {
    /// The policy that a command asks for; without one, to report.
    init(_ policy: OnError?) {
        self =
            switch policy {
            case nil, .report: .report
            case .ignore: .ignore
            case .enospc: .enospc
            case .stop: .stop
            case .auto: .auto
            }
    }
}

import BlockCore
import Control
import Jobs
import Nodes
import Volumes

extension Agent {
    func registerMirrorCommands(in table: inout CommandTable) {
        table.on(DriveMirror.self) { arguments in
            try await start(MirrorRequest(arguments))
        }
        table.on(BlockdevMirror.self) { arguments in
            try await start(MirrorRequest(arguments))
        }
        table.on(BlockdevSnapshotSync.self) { arguments in
            try await QuietTransaction.perform([try await snapshot(arguments).action])
            return Nothing()
        }
        table.on(DriveReopen.self) { arguments in
            try await QuietTransaction.perform([try await reopen(arguments)])
            return Nothing()
        }
    }

    private func start(_ request: MirrorRequest) async throws -> StartedJob {
        let mirror = try await prepare(request, over: nil)
        try await QuietTransaction.perform([mirror.action])
        return StartedJob(jobID: mirror.jobID)
    }

    /// Makes the overlay of a snapshot, and nothing else yet.
    func snapshot(
        _ arguments: BlockdevSnapshotSync.Arguments
    ) async throws -> PreparedSnapshot {
        guard let name = arguments.device ?? arguments.nodeName else {
            throw ControlError.generic("Cannot find device='' nor node-name=''")
        }
        guard arguments.format ?? .qcow2 == .qcow2 else {
            throw ControlError.generic("an overlay has the format qcow2")
        }
        if arguments.device == nil, (try? await nodes.find(name)) == nil {
            throw ControlError.noSuchNode(named: name)
        }
        if let overlay = arguments.snapshotNodeName, (try? await nodes.find(overlay)) != nil {
            throw ControlError.generic("New overlay node-name already in use")
        }
        return try await volumes.prepareSnapshot(
            name, to: arguments.snapshotFile, mode: NewImageMode(arguments.mode))
    }

    /// Opens other images for a volume, and nothing else yet.
    func reopen(_ arguments: DriveReopen.Arguments) async throws -> QuietAction {
        let path = arguments.newImageFile
        let format =
            arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
            ?? (path.contains("://") ? .raw : .qcow2)
        return try await volumes.prepareReopen(
            arguments.device, on: path, format: format, isSame: arguments.sameContent ?? false)
    }

    /// Opens or makes the target of a mirror, and creates its job: nothing is recorded yet. With
    /// `snapshot` the volume is going to have that overlay when the mirror begins.
    func prepare(
        _ request: MirrorRequest, over snapshot: PreparedSnapshot?
    ) async throws -> (action: QuietAction, jobID: String) {
        let volume = try await volumes.volume(request.device)
        let images = volume.imagePaths(after: snapshot)
        let options = try request.options(for: volume, images)
        let target = try await openTarget(request, options, for: volume, images, snapshot)
        var jobOptions = request.job
        jobOptions.id = request.job.id ?? volume.name
        let body: MirrorJob
        let job: Job
        do throws(BlockError) {
            body = try MirrorJob(
                planned: volume, to: target, jobID: jobOptions.id ?? "", options: options,
                images: images)
            job = try await jobs.create(jobOptions, body, in: jobs.newTransaction())
        } catch {
            try? await target.close()
            throw error
        }
        var action = QuietAction([body.beginning])
        action.happened = { [jobs] _ in
            if await !jobs.begin(job) { await body.abandon() }
        }
        action.withdraw = { [jobs] in
            await jobs.withdraw(job)
            try? await target.close()
        }
        return (action, job.id)
    }

    private func openTarget(
        _ request: MirrorRequest, _ options: MirrorOptions, for volume: Volume,
        _ images: [String], _ snapshot: PreparedSnapshot?
    ) async throws -> TargetImage {
        let target: TargetImage
        if request.mode == nil,
            let found = try await self.target(
                named: request.target, for: volume,
                user: "job \(request.job.id ?? volume.name)", isPartial: options.sync != .full)
        {
            target = found
        } else if request.mode == nil, !request.target.contains("/") {
            throw ControlError.noSuchNode(request.target)
        } else {
            target = try await volumes.openTarget(
                TargetSpecification(
                    path: request.target, format: request.format, mode: request.mode ?? .existing,
                    backing: request.backing(images), isPartial: options.sync != .full,
                    snapshot: snapshot),
                for: volume)
        }
        do throws(ControlError) { try request.checkReplaced(by: target, of: volume, images) } catch
        {
            try? await target.close()
            throw error
        }
        return target
    }
}

import BlockCore
import Catalog
import Control
import Jobs
import Repository
import Volumes

extension Agent {
    /// What makes, lists, checks and restores points.
    func registerPointCommands(in table: inout CommandTable) {
        let finder = PointFinder(repositories: repositories)
        table.on(QueryPoints.self) { arguments in
            let points = try await finder.points(
                volume: arguments.volume, repository: arguments.repository)
            let groups = await finder.groups(of: points)
            return points.map { PointInfo($0, groups[$0.summary.manifest?.group ?? ""]) }
        }
        table.on(PointResolve.self) { arguments in
            let point = try await finder.resolve(arguments.point)
            let groups = await finder.groups(of: [point])
            return PointInfo(point, groups[point.summary.manifest?.group ?? ""])
        }
        table.on(VolumeBackup.self) { arguments in try await backUp(arguments) }
        table.on(PointVerify.self) { arguments in try await verify(arguments, finder) }
        table.on(PointRestore.self) { arguments in try await restore(arguments, finder) }
    }

    private func backUp(_ arguments: VolumeBackup.Arguments) async throws -> StartedJob {
        guard !arguments.volumes.isEmpty, Set(arguments.volumes).count == arguments.volumes.count
        else { throw ControlError.generic("Parameter 'volumes' names no volume, or one twice") }
        var sources: [Volume] = []
        for name in arguments.volumes { sources.append(try await volumes.volume(name)) }
        // It may hang: only the job waits for it.
        let record = try await repositories.record(arguments.repository)
        let level = arguments.level.flatMap { Jobs.BackupLevel(rawValue: $0.rawValue) } ?? .auto
        let targets = sources
        return try await start(.backup, arguments.jobID, arguments.autoDismiss) {
            [self] (job) async throws(BlockError) in
            let repository = try await repositories.open(record.name)
            let backup = BackupJob(
                volumes: targets, repository: repository, level: level,
                bitmapName: arguments.bitmap,
                compression: arguments.compress.flatMap {
                    PointCompression(rawValue: $0.rawValue)
                },
                speedBytes: arguments.speed ?? 0, fleece: fleece,
                checksSpace: arguments.checkSpace ?? true,
                leaveUnsettled: { await recovery.add($0) })
            await recovery.settle(targets, in: record.id)
            do throws(BlockError) {
                let result = try await backup.run(job)
                await copies.put(into: repository)
                return result
            } catch {
                await repositories.openAnew(record.name)
                throw error
            }
        }
    }

    private func verify(
        _ arguments: PointVerify.Arguments, _ finder: PointFinder
    ) async throws -> StartedJob {
        var points: [FoundPoint] = []
        if let names = arguments.points {
            for name in names { points.append(try await finder.resolve(name)) }
        } else {
            points = try await finder.points(repository: arguments.repository)
        }
        let job = VerifyJob(points: points.map { ($0.repository, $0.id) })
        return try await start(.verify, arguments.jobID, arguments.autoDismiss, job.run)
    }

    private func restore(
        _ arguments: PointRestore.Arguments, _ finder: PointFinder
    ) async throws -> StartedJob {
        let format = arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
        let target: RestoreJob.Target
        switch (arguments.target, arguments.asVolume) {
        case (let text?, nil):
            target = try RestoreJob.Target(named: text)
        case (nil, let name?):
            target = .volume(name: name, store: volumes)
        default:
            throw ControlError.generic("Give one of the parameters 'target' and 'as-volume'")
        }
        let isSalvaging = arguments.salvage ?? false
        let point = try await finder.resolve(arguments.point)
        if arguments.instant ?? false { return try await serve(point, arguments) }
        if let running = try await restores.job(
            at: target.place, point: point.id.text, isSalvaging: isSalvaging, in: jobs)
        {
            return StartedJob(jobID: running)
        }
        let job = RestoreJob(
            repository: point.repository, pointID: point.id, target: target,
            format: format ?? .qcow2, isSalvaging: isSalvaging, speedBytes: arguments.speed ?? 0,
            stateDirectory: configuration.stateDirectory)
        let exportVolume = arguments.asVolume
        let started = try await start(.restore, arguments.jobID, arguments.autoDismiss) {
            (running) async throws(BlockError) in
            let result = try await job.run(running)
            if let exportVolume { try await export(volumes.volume(exportVolume)) }
            return result
        }
        await restores.add(
            started.jobID, at: target.place, point: point.id.text, isSalvaging: isSalvaging)
        return started
    }

    /// Makes a volume over the point, and copies the point behind it.
    private func serve(
        _ point: FoundPoint, _ arguments: PointRestore.Arguments
    ) async throws -> StartedJob {
        guard let name = arguments.asVolume, arguments.salvage != true,
            arguments.format ?? .qcow2 == .qcow2
        else {
            throw ControlError.generic(
                "Parameter 'instant' is for 'as-volume', with format qcow2 and without 'salvage'")
        }
        try await export(overlays.makeVolume(name, over: point))
        let job = try await overlays.stream(
            name, id: arguments.jobID, speedBytes: arguments.speed ?? 0,
            autoDismiss: arguments.autoDismiss ?? true)
        return StartedJob(jobID: job.id)
    }

    private func start(
        _ type: JobType, _ id: String?, _ autoDismiss: Bool?,
        _ body: @escaping @Sendable (Job) async throws(BlockError) -> Jobs.JobResult
    ) async throws(BlockError) -> StartedJob {
        let job = try await jobs.start(
            id: id, type: type, autoDismiss: autoDismiss ?? true, body)
        return StartedJob(jobID: job.id)
    }
}

extension PointInfo {
    /// `group` is the manifest of the point's group, if that is complete.
    init(_ point: FoundPoint, _ group: GroupManifest?) {
        let summary = point.summary
        let manifest = summary.manifest
        self.init(
            id: point.id.text, volume: manifest?.volume.name ?? summary.folder,
            volumeUUID: manifest?.volume.uuid ?? "", repository: point.repository.name,
            level: manifest?.level.rawValue ?? "unknown",
            reason: manifest?.reason.rawValue ?? "unknown",
            explanation: manifest?.explanation, parent: manifest?.parent?.point.text,
            created: (manifest?.freeze.time ?? summary.id.time).text,
            size: manifest?.volume.lengthBytes ?? 0,
            storedBytes: manifest?.image.storedBytes ?? 0, group: manifest?.group,
            groupMembers: group.map { $0.members.map(\.point.text) },
            freezeDurationSeconds: manifest.map {
                Double($0.freeze.durationMicroseconds) / 1_000_000
            },
            worstWriteDelaySeconds: manifest?.guest.map {
                Double($0.worstWriteDelayMicroseconds) / 1_000_000
            },
            state: summary.problem?.description ?? "whole")
    }
}

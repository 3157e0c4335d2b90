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
        table.on(VolumeBackup.self) { arguments in
            let (options, body) = try await backup(arguments)
            return StartedJob(jobID: try await jobs.start(options, body).id)
        }
        table.on(PointVerify.self) { arguments in try await verify(arguments, finder) }
        table.on(PointRestore.self) { arguments in try await restore(arguments, finder) }
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
        let options = JobOptions(.verify, arguments, speedBytes: arguments.speed ?? 0)
        return try await start(options, job.run)
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
            format: format ?? .qcow2, isSalvaging: isSalvaging,
            stateDirectory: configuration.stateDirectory)
        let exportVolume = arguments.asVolume
        let options = JobOptions(
            copying: .restore, arguments, device: exportVolume, speedBytes: arguments.speed ?? 0)
        let started = try await start(options) {
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
            JobOptions(
                copying: .stream, arguments, device: name, speedBytes: arguments.speed ?? 0))
        return StartedJob(jobID: job.id)
    }

    private func start(
        _ options: JobOptions,
        _ body: @escaping @Sendable (Job) async throws(BlockError) -> Jobs.JobResult
    ) async throws(BlockError) -> StartedJob {
        StartedJob(jobID: try await jobs.start(options, body).id)
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

import Control
import Jobs
import Volumes

extension Agent {
    func registerCommitCommands(in table: inout CommandTable) {
        table.on(BlockCommit.self) { arguments in
            try await commit(arguments)
        }
    }

    private func commit(_ arguments: BlockCommit.Arguments) async throws -> StartedJob {
        let speedBytes = try ControlError.checked(speed: arguments.speed)
        let name = arguments.device
        guard let volume = await volumes.volumes().first(where: { $0.name == name }) else {
            throw ControlError(.deviceNotFound, "Device '\(name)' not found")
        }
        let images = volume.imagePaths
        let top = try await topPosition(arguments, in: volume)
        let base = try await basePosition(arguments, below: top, in: volume)
        guard volume.imagePaths == images else { throw ChainJobs.haveChanged(volume) }
        guard base != top else { throw ControlError.generic("cannot commit an image into itself") }
        guard top > 0 || arguments.backingFile == nil else {
            throw ControlError.generic("'backing-file' specified, but 'top' is the active layer")
        }
        var options = JobOptions(
            .commit, arguments, device: volume.name, speedBytes: speedBytes,
            onError: arguments.onError)
        options.id = options.id ?? volume.name
        let request = CommitRequest(
            images: images, top: top, base: base, backingFile: arguments.backingFile)
        return StartedJob(jobID: try await chains.commit(options, request, of: volume).id)
    }

    private func topPosition(
        _ arguments: BlockCommit.Arguments, in volume: Volume
    ) async throws -> Int {
        guard arguments.top == nil || arguments.topNode == nil else {
            throw ControlError.generic("'top-node' and 'top' are mutually exclusive")
        }
        if let topNode = arguments.topNode {
            guard let found = try await position(ofNode: topNode, in: volume) else {
                throw ControlError.generic("'\(topNode)' is not in this backing file chain")
            }
            return found
        }
        guard let top = arguments.top else { return 0 }
        guard let found = volume.position(ofImage: top) else {
            throw ControlError.generic("Top image file \(top) not found")
        }
        return found
    }

    private func basePosition(
        _ arguments: BlockCommit.Arguments, below top: Int, in volume: Volume
    ) async throws -> Int {
        guard arguments.base == nil || arguments.baseNode == nil else {
            throw ControlError.generic("'base-node' and 'base' are mutually exclusive")
        }
        if let baseNode = arguments.baseNode {
            guard let found = try await position(ofNode: baseNode, in: volume), found >= top else {
                throw ControlError.generic("'\(baseNode)' is not in this backing file chain")
            }
            return found
        }
        guard let base = arguments.base else { return volume.imagePaths.count - 1 }
        guard let found = volume.position(ofImage: base), found > top else {
            throw ControlError.generic("Can't find '\(base)' in the backing chain")
        }
        return found
    }
}

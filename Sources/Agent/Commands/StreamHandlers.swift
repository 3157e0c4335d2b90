import BlockCore
import Control
import Jobs
import Nodes
import Volumes

extension Agent {
    func registerStreamCommands(in table: inout CommandTable) {
        table.on(BlockStream.self) { arguments in
            try await stream(arguments)
        }
    }

    private func stream(_ arguments: BlockStream.Arguments) async throws -> StartedJob {
        let (volume, position) = try await image(arguments.device)
        let paths = volume.imagePaths
        let base = try await basePosition(arguments, below: position, of: volume)
        guard base != nil || arguments.backingFile == nil else {
            throw ControlError.generic(
                "backing file specified, but streaming the entire chain")
        }
        guard !volume.isReadOnly else { throw ControlError.generic("Block node is read-only") }
        let isVolume = arguments.device == volume.name
        guard arguments.jobID != nil || isVolume else {
            throw ControlError.generic("An explicit job ID is required for this node")
        }
        var options = JobOptions(
            .stream, arguments, device: volume.name,
            speedBytes: try ControlError.checked(speed: arguments.speed),
            onError: arguments.onError)
        options.id = options.id ?? (JobStore.isWellFormed(volume.name) ? volume.name : nil)
        let isIdle = arguments.priority != .normal
        if position == 0, base == nil, try await overlays.isOverlay(volume) {
            return StartedJob(jobID: try await overlays.stream(options, isIdle: isIdle).id)
        }
        guard volume.imagePaths == paths,
            position == (isVolume ? 0 : volume.position(ofImage: arguments.device))
        else { throw ChainJobs.haveChanged(volume) }
        let request = StreamRequest(
            image: paths[position], base: base.map { paths[$0] },
            backingFile: arguments.backingFile, isIdle: isIdle)
        return StartedJob(jobID: try await chains.stream(options, request, of: volume).id)
    }

    /// The volume by that name and its top, or the image of a volume that `name` means.
    private func image(_ name: String) async throws -> (Volume, Int) {
        if let volume = await volumes.volumes().first(where: { $0.name == name }) {
            return (volume, 0)
        }
        if name.contains("/") {
            for volume in await volumes.volumes() {
                if let position = volume.position(ofImage: name) { return (volume, position) }
            }
        }
        // One that is not open says why.
        return (try await volumes.volume(name), 0)
    }

    /// The position of the image that `name` means in the chain of a volume; nil if that is another
    /// volume or a node. Throws if it is nothing at all.
    func position(ofNode name: String, in volume: Volume) async throws -> Int? {
        if let position = volume.position(ofNode: name) { return position }
        do throws(BlockError) { _ = try await nodes.find(name) } catch {
            throw ControlError.noSuchNode(named: name)
        }
        return nil
    }

    /// The position of the image that stays the backing; nil if none does.
    private func basePosition(
        _ arguments: BlockStream.Arguments, below position: Int, of volume: Volume
    ) async throws -> Int? {
        let (base, baseNode, bottom) = (arguments.base, arguments.baseNode, arguments.bottom)
        for (one, other, names) in [
            (base, baseNode, "'base' and 'base-node'"), (base, bottom, "'base' and 'bottom'"),
            (baseNode, bottom, "'bottom' and 'base-node'"),
        ] where one != nil && other != nil {
            throw ControlError.generic("\(names) cannot be specified at the same time")
        }
        if let base {
            guard let found = volume.position(ofImage: base), found > position else {
                throw ControlError.generic("Can't find '\(base)' in the backing chain")
            }
            return found
        }
        if let baseNode {
            guard let found = try await self.position(ofNode: baseNode, in: volume),
                found > position
            else {
                throw ControlError.generic(
                    "Node '\(baseNode)' is not a backing image of '\(arguments.device)'")
            }
            return found
        }
        if let bottom {
            guard let found = try await self.position(ofNode: bottom, in: volume),
                found >= position
            else {
                throw ControlError.generic(
                    "Node '\(bottom)' is not in a chain starting from '\(arguments.device)'")
            }
            return found + 1 < volume.imagePaths.count ? found + 1 : nil
        }
        return nil
    }
}

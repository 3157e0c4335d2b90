import BlockCore
import Control
import Filters
import Nodes
import Volumes

extension Agent {
    /// QEMU's commands on the block graph.
    func registerNodeCommands(in table: inout CommandTable) {
        table.on(BlockdevAdd.self) { arguments in
            _ = try await nodes.add(try NodeOptions(arguments))
            return Nothing()
        }
        table.on(BlockdevDelete.self) { arguments in
            try await nodes.remove(arguments.nodeName)
            return Nothing()
        }
        table.on(BlockdevSnapshot.self) { arguments in
            try await snapshot(arguments)
            return Nothing()
        }
        table.on(ObjectAdd.self) { arguments in
            try await nodes.addGroup(
                arguments.id, ThrottleLimits(arguments.limits ?? ThrottleGroupLimits()))
            return Nothing()
        }
        table.on(ObjectDelete.self) { arguments in
            try await nodes.removeGroup(arguments.id)
            return Nothing()
        }
        table.on(QueryNamedBlockNodes.self) { arguments in
            let isFlat = arguments.flat ?? false
            var infos: [BlockNodeInfo] = []
            for volume in await volumes.volumes() {
                infos.append(try await BlockNodeInfo(volume, isFlat: isFlat))
            }
            for node in await nodes.all() {
                infos.append(try await BlockNodeInfo(node, isFlat: isFlat))
            }
            return infos
        }
        table.on(QueryBlock.self) { _ in
            var infos: [BlockInfo] = []
            for volume in await volumes.volumes() {
                infos.append(
                    BlockInfo(
                        device: volume.name,
                        inserted: try await BlockNodeInfo(volume, isFlat: false)))
            }
            for (name, _) in await volumes.unavailable() {
                infos.append(BlockInfo(device: name, inserted: nil))
            }
            return infos
        }
    }

    /// The node goes, and its image comes back as the volume's top.
    private func snapshot(_ arguments: BlockdevSnapshot.Arguments) async throws {
        let volume = try await volumes.volume(arguments.node)
        guard let overlay = await nodes.node(arguments.overlay) else {
            if (try? await nodes.find(arguments.overlay)) != nil {
                throw ControlError.generic("The overlay is already in use")
            }
            throw ControlError.noSuchNode(arguments.overlay)
        }
        guard case .qcow2(_, .nothing) = overlay.options.driver, let images = overlay.images else {
            throw ControlError.generic(
                "The overlay '\(overlay.name)' is no qcow2 node without a backing: open it with "
                    + "\"backing\": null")
        }
        let path = images.nodes[0].path
        try await nodes.remove(overlay.name)
        do throws(BlockError) {
            try await volumes.snapshot(volume.name, to: path, mode: .existing)
        } catch {
            // As it was before; what a node stood on under a name of its own is there still.
            _ = try? await nodes.add(overlay.options)
            throw error
        }
    }

    /// `block_resize` of a node.
    func resize(_ node: Node, to lengthBytes: UInt64, mayCut: Bool) async throws {
        let user = "block_resize"
        try await node.use(for: user)
        defer { node.release(by: user) }
        guard node.users.count == 1, !node.isReadOnly, let images = node.images else {
            throw BlockError(
                .busy, "resize", on: node.name,
                detail: "it is read-only, a filter, or in use by others")
        }
        guard mayCut || lengthBytes >= images.top.lengthBytes else {
            throw ControlError.generic(
                "what lies behind \(lengthBytes) bytes of node '\(node.name)' would be lost: say "
                    + "that it may be, with shrink")
        }
        try await images.resizeTop(to: lengthBytes)
    }

    /// What a job is to write, if `name` is a node or a volume.
    func target(
        named name: String, for volume: Volume, user: String, isPartial: Bool
    ) async throws -> TargetImage? {
        if let node = await nodes.node(name) {
            try await node.use(for: user)
            do throws(BlockError) {
                return try await TargetImage(
                    node, name: node.name, images: node.independentImages, for: volume,
                    isPartial: isPartial,
                    lender: ImageLender(
                        giveBack: { node.release(by: user) }, lose: { node.lose() }))
            } catch {
                node.release(by: user)
                throw error
            }
        }
        guard let other = try? await volumes.volume(name) else { return nil }
        return try TargetImage(other, for: volume)
    }
}

package import BlockCore
package import Filters
package import Volumes

// The nodes that users opened with `blockdev-add`, by name, beside the volumes, which are nodes too.
// They are not recorded anywhere: they last until they are removed or the agent ends.
//
// A node that another one stands on cannot be removed, nor can one that an export or a job uses. Those
// that were opened with another node go with it.

/// The block graph: nodes by name, and the throttle groups that some of them share.
package actor NodeStore {
    let volumes: VolumeStore
    /// What copy-before-write nodes may hold back.
    let fleece: FleeceLimits
    private var nodes: [String: Node] = [:]
    /// Names of nodes, in the order in which they were added.
    private var order: [String] = []
    /// Names of nodes that are being opened or closed.
    private var reserved: Set<String> = []
    private var groups: [String: ThrottleGroup] = [:]

    package init(volumes: VolumeStore, fleece: FleeceLimits) {
        self.volumes = volumes
        self.fleece = fleece
    }

    // MARK: Finding

    /// All nodes in the order in which they were added.
    package func all() -> [Node] {
        sweep()
        return order.compactMap(node)
    }

    /// The node by that name, if there is one.
    package func node(_ name: String) -> Node? {
        guard let node = nodes[name], !node.isGone else { return nil }
        return node
    }

    /// The volume or node by that name.
    package func find(_ name: String) async throws(BlockError) -> GraphNode {
        if let node = node(name) { return .node(node) }
        do throws(BlockError) {
            return .volume(try await volumes.volume(name))
        } catch {
            guard error.kind == .notFound else { throw error }
            throw Self.noNode(name)
        }
    }

    /// The nodes that stand on a volume.
    package func names(onVolume name: String) -> [String] {
        all().filter { node in
            node.below.contains { hold in
                if case .volume(let volume) = hold.target { volume.name == name } else { false }
            }
        }
        .map(\.name)
    }

    /// Throws unless a volume or node may be called `name`.
    package func checkIsFree(_ name: String) throws(BlockError) {
        guard node(name) == nil, !reserved.contains(name) else {
            throw BlockError(
                .invalid, "add a node", on: name, detail: "Duplicate nodes with node-name='\(name)'"
            )
        }
    }

    // MARK: Adding and removing

    /// Opens a node, and those below it that are opened with it.
    package func add(_ options: NodeOptions) async throws(BlockError) -> Node {
        guard options.name != nil else {
            throw BlockError(
                .invalid, "add a node", on: "the root",
                detail: "'node-name' must be specified for the root node")
        }
        sweep()
        var opening = NodeOpening(store: self)
        do throws(BlockError) {
            let node = try await opening.open(options, owner: nil)
            for node in opening.opened where !node.name.isEmpty { enter(node) }
            release(opening.names)
            return node
        } catch {
            for node in opening.opened.reversed() {
                _ = node.leave()
                try? await close(node)
            }
            release(opening.names)
            throw error
        }
    }

    /// Closes a node that nobody uses, and those that were opened with it.
    package func remove(_ name: String) async throws(BlockError) {
        sweep()
        guard let node = node(name) else {
            throw BlockError(
                .notFound, "remove the node", on: name,
                detail: "Failed to find node with node-name='\(name)'")
        }
        if node.owner != nil {
            throw BlockError(
                .busy, "remove the node", on: name,
                detail: "Node \(name) is not owned by the monitor")
        }
        guard node.leave() else {
            throw BlockError(
                .busy, "remove the node", on: name,
                detail: "Node \(name) is in use: \(node.users.joined(separator: ", "))")
        }
        forget(name)
        reserved.insert(name)
        defer { reserved.remove(name) }
        try await close(node)
    }

    /// Closes all nodes, those on top first.
    package func closeAll() async -> [BlockError] {
        var errors: [BlockError] = []
        for name in order.reversed() {
            guard let node = node(name), node.owner == nil else { continue }
            node.lose()
            do throws(BlockError) { try await close(node) } catch { errors.append(error) }
        }
        (nodes, order) = ([:], [])
        return errors
    }

    /// Forgets nodes whose images have become a volume's, and the names of the files below them.
    private func sweep() {
        for node in nodes.values where node.isGone {
            forget(node.name)
            for hold in node.below {
                guard case .node(let below) = hold.target else { continue }
                below.release(by: hold.user)
                if hold.isOwned, below.leave() { forget(below.name) }
            }
        }
    }

    private func enter(_ node: Node) {
        nodes[node.name] = node
        order.append(node.name)
    }

    private func forget(_ name: String) {
        nodes[name] = nil
        order.removeAll { $0 == name }
    }

    /// Keeps a name for a node to come.
    func reserve(_ name: String) async throws(BlockError) {
        try NodeName.check(name)
        try checkIsFree(name)
        reserved.insert(name)
        guard (try? await volumes.volume(name)) == nil else {
            reserved.remove(name)
            throw BlockError(
                .invalid, "add a node", on: name,
                detail: "Duplicate nodes with node-name='\(name)'")
        }
    }

    private func release(_ names: [String]) {
        for name in names { reserved.remove(name) }
    }

    /// Closes a node that has been left, and what was opened with it. The first error is thrown once
    /// all are closed.
    private func close(_ node: Node) async throws(BlockError) {
        var failure: BlockError?
        if case .copyBeforeWrite = node.options.driver {
            let child = node.below[0].target
            await node.below[1].target.imagesOver(child)?.standOn(child.device)
        }
        do throws(BlockError) {
            if let images = node.images {
                try await images.close()
            } else {
                try await node.device.close()
            }
        } catch {
            failure = error
        }
        for hold in node.below {
            guard case .node(let below) = hold.target else { continue }
            below.release(by: hold.user)
            guard hold.isOwned, below.leave() else { continue }
            forget(below.name)
            do throws(BlockError) { try await close(below) } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    // MARK: Throttle groups

    /// Adds a group of limits that throttle nodes can share.
    package func addGroup(_ name: String, _ limits: ThrottleLimits) throws(BlockError) {
        try NodeName.check(name, "id")
        guard groups[name] == nil else {
            throw BlockError(
                .invalid, "add an object", on: name,
                detail:
                    "attempt to add duplicate property '\(name)' to object (type 'container')")
        }
        try limits.check()
        groups[name] = ThrottleGroup(name: name, limits: limits)
    }

    /// Removes a group that no node uses.
    package func removeGroup(_ name: String) throws(BlockError) {
        guard groups[name] != nil else {
            throw BlockError(
                .notFound, "remove an object", on: name, detail: "object '\(name)' not found")
        }
        let isUsed = nodes.values.contains { node in
            if case .throttle(_, group: name) = node.options.driver { !node.isGone } else { false }
        }
        guard !isUsed else {
            throw BlockError(
                .busy, "remove an object", on: name,
                detail: "object '\(name)' is in use, can not be deleted")
        }
        groups[name] = nil
    }

    func group(_ name: String) throws(BlockError) -> ThrottleGroup {
        if let group = groups[name] { return group }
        throw BlockError(
            .notFound, "find the throttle group", on: name,
            detail: "Throttle group '\(name)' does not exist")
    }

    static func noNode(_ name: String) -> BlockError {
        BlockError(
            .notFound, "find the node", on: name,
            detail: "Cannot find device='\(name)' nor node-name='\(name)'")
    }
}

/// Which names nodes can have.
enum NodeName {
    /// What QEMU takes: a letter, then letters, digits and `-._`, at most 31 of them in all.
    static func check(_ name: String, _ parameter: String = "node-name") throws(BlockError) {
        let bytes = Array(name.utf8)
        let isGood =
            bytes.first.map { ($0 | 0x20) >= 0x61 && ($0 | 0x20) <= 0x7A } == true
            && bytes.allSatisfy { byte in
                (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x7A || byte >= 0x30 && byte <= 0x39
                    || byte == 0x2D || byte == 0x2E || byte == 0x5F
            }
        guard isGood else {
            throw BlockError(
                .invalid, "add a node", on: name, detail: "Invalid \(parameter): '\(name)'")
        }
        guard bytes.count < 32 || parameter != "node-name" else {
            throw BlockError(.invalid, "add a node", on: name, detail: "Node name too long")
        }
    }
}

import BlockCore
import DriverQcow2
import Filters
import Volumes

// Opens one node with all that is opened with it, from below. What fails on the way is undone by
// `NodeStore`, which knows from here what was opened and which names were reserved.
//
// A `file` node under a format is only a name: the format's image opens and locks the file itself, so
// the node keeps no descriptor of it then. Used by itself it is a raw image.

/// The opening of one node.
struct NodeOpening {
    let store: NodeStore
    /// What was opened so far, what stands below first.
    private(set) var opened: [Node] = []
    private(set) var names: [String] = []

    init(store: NodeStore) { self.store = store }

    mutating func open(_ options: NodeOptions, owner: String?) async throws(BlockError) -> Node {
        if let name = options.name {
            try await store.reserve(name)
            names.append(name)
        }
        let node: Node
        switch options.driver {
        case .file(let path):
            node = Node(
                options, owner: owner, device: try FileNode(path, options))
        case .nbd(let uri):
            node = try await openImage(options, owner, below: []) { () throws(BlockError) in
                try ImageOpener.open(
                    path: uri, format: .raw, readOnly: options.isReadOnly, pool: .guest)
            }
        case .raw(let file):
            node = try await openRaw(over: file, options, owner)
        case .qcow2(let file, let backing):
            node = try await openQcow2(over: file, backing, options, owner)
        case .throttle, .copyOnRead, .copyBeforeWrite, .snapshotAccess, .faultInjection:
            node = try await openFilter(options, owner)
        }
        opened.append(node)
        return node
    }

    // MARK: Images

    private mutating func openRaw(
        over file: NodeReference, _ options: NodeOptions, _ owner: String?
    ) async throws(BlockError) -> Node {
        let hold = try await hold(file, for: options)
        do throws(BlockError) {
            return try await openRaw(in: hold, options, owner)
        } catch {
            Self.release([hold])
            throw error
        }
    }

    private func openRaw(
        in hold: NodeHold, _ options: NodeOptions, _ owner: String?
    ) async throws(BlockError) -> Node {
        guard case .node(let below) = hold.target, let file = below.device as? FileNode else {
            try await hold.activate()
            // Raw is what the other one is already.
            let device = hold.target.device
            return Node(
                options, owner: owner, device: SharedDevice(device),
                childName: hold.target.name, volume: Self.volume(of: hold), below: [hold])
        }
        if below.users.count == 1 { try await file.deactivate() }
        let isDirect = options.isDirect || below.options.isDirect
        return try await openImage(options, owner, below: [hold]) { () throws(BlockError) in
            try Self.orReadOnly(options) { (readOnly) throws(BlockError) in
                try ImageOpener.open(
                    path: file.path, format: .raw, readOnly: readOnly, isDirect: isDirect,
                    pool: .guest)
            }
        }
    }

    private mutating func openQcow2(
        over file: NodeReference, _ backing: NodeBacking, _ options: NodeOptions, _ owner: String?
    ) async throws(BlockError) -> Node {
        let hold = try await hold(file, for: options)
        do throws(BlockError) {
            return try await openQcow2(in: hold, backing, options, owner)
        } catch {
            Self.release([hold])
            throw error
        }
    }

    private mutating func openQcow2(
        in hold: NodeHold, _ backing: NodeBacking, _ options: NodeOptions, _ owner: String?
    ) async throws(BlockError) -> Node {
        guard case .node(let below) = hold.target, let file = below.device as? FileNode else {
            throw BlockError(
                .unsupported, "open", on: hold.target.name,
                detail: "a qcow2 image lies in a file: let whoever serves this open the image")
        }
        if below.users.count == 1 { try await file.deactivate() }
        let path = file.path
        switch backing {
        case .ofHeader:
            return try await openImage(options, owner, below: [hold]) { () throws(BlockError) in
                let standsAlone = try Qcow2Device.readHeader(path: path).backing == nil
                return try Self.orReadOnly(options) { (readOnly) throws(BlockError) in
                    // With a place below it, where a mirror can put something for a time.
                    standsAlone
                        ? try ImageOpener.open(
                            path: path, over: .nothing, readOnly: readOnly, reach: .ownFolder,
                            pool: .guest)
                        : try ImageOpener.open(
                            path: path, format: .qcow2, readOnly: readOnly, reach: .ownFolder,
                            pool: .guest)
                }
            }
        case .nothing:
            return try await openImage(options, owner, below: [hold]) { () throws(BlockError) in
                try Self.orReadOnly(options) { (readOnly) throws(BlockError) in
                    try ImageOpener.open(
                        path: path, over: .nothing, readOnly: readOnly, reach: .ownFolder,
                        pool: .guest)
                }
            }
        case .node(let reference):
            let backing = try await self.hold(reference, for: options, isReadOnly: true)
            try await backing.activate()
            let device = backing.target.device
            return try await openImage(
                options, owner, below: [hold, backing], volume: Self.volume(of: backing)
            ) { () throws(BlockError) in
                try Self.orReadOnly(options) { (readOnly) throws(BlockError) in
                    try ImageOpener.open(
                        path: path, over: .device(device), readOnly: readOnly, reach: .ownFolder,
                        pool: .guest)
                }
            }
        }
    }

    private func openImage(
        _ options: NodeOptions, _ owner: String?, below: [NodeHold], volume: Volume? = nil,
        _ open: @escaping @Sendable () throws(BlockError) -> ImageChain
    ) async throws(BlockError) -> Node {
        do throws(BlockError) {
            let chain = try await IOPool.guest.run(open)
            return Node(
                options, owner: owner, device: chain.top, images: chain, volume: volume,
                below: below)
        } catch {
            Self.release(below)
            throw error
        }
    }

    private static func orReadOnly(
        _ options: NodeOptions, _ open: (Bool) throws(BlockError) -> ImageChain
    ) throws(BlockError) -> ImageChain {
        guard !options.isReadOnly, options.mayBecomeReadOnly else {
            return try open(options.isReadOnly)
        }
        do throws(BlockError) { return try open(false) } catch {
            guard error.kind == .readOnly else { throw error }
            return try open(true)
        }
    }

    // MARK: Filters

    private mutating func openFilter(
        _ options: NodeOptions, _ owner: String?
    ) async throws(BlockError) -> Node {
        var below: [NodeHold] = []
        do throws(BlockError) {
            let device: any BlockDevice
            let volume: Volume?
            switch options.driver {
            case .throttle(let child, let group):
                let group = try await store.group(group)
                below.append(try await use(child, for: options))
                device = Throttle(below[0].target.device, group: group)
            case .copyOnRead(let child):
                below.append(try await use(child, for: options))
                if case .volume(let volume) = below[0].target {
                    device = CopyOnRead(volume)
                } else {
                    device = CopyOnRead(below[0].target.device)
                }
            case .faultInjection(let child, let rules):
                below.append(try await use(child, for: options))
                device = FaultInjection(below[0].target.device, rules: rules)
            case .snapshotAccess(let child):
                below.append(try await use(child, for: options))
                guard case .node(let node) = below[0].target,
                    let filter = node.device as? CopyBeforeWrite
                else {
                    throw BlockError(
                        .unsupported, "open", on: below[0].target.name,
                        detail: "only a copy-before-write node keeps a snapshot to look at")
                }
                device = filter.view
            case .copyBeforeWrite(let child, let target, let bitmap):
                below.append(try await use(child, for: options))
                below.append(try await use(target, for: options))
                device = try await copyBeforeWrite(
                    over: below[0].target, to: below[1].target, bitmap)
            case .file, .nbd, .raw, .qcow2:
                preconditionFailure("no filter")
            }
            volume = Self.volume(of: below[0])
            return Node(
                options, owner: owner, device: device, childName: below[0].target.name,
                volume: volume, below: below)
        } catch {
            Self.release(below)
            throw error
        }
    }

    private func copyBeforeWrite(
        over child: GraphNode, to target: GraphNode, _ bitmap: (volume: String, name: String)?
    ) async throws(BlockError) -> CopyBeforeWrite {
        var ranges: [ByteRange]?
        if let bitmap {
            let unit = max(target.device.allocationUnitBytes, 1 << 20)
            ranges = try await store.volumes.volume(bitmap.volume)
                .dirtyRanges(ofBitmap: bitmap.name).map { $0.alignedOutward(to: unit) }
        }
        let filter: CopyBeforeWrite
        switch child {
        case .volume(let volume):
            filter = try await CopyBeforeWrite(
                over: volume, target: target.device, limits: store.fleece, keeping: ranges)
        case .node(let node):
            filter = try CopyBeforeWrite(
                over: node, target: target.device, limits: store.fleece, keeping: ranges)
        }
        // What the target shows where it holds nothing yet must be the content of that instant too.
        await target.imagesOver(child)?.standOn(filter.view)
        return filter
    }

    // MARK: What stands below

    /// Finds or opens what a node is to stand on, and holds it for that.
    private mutating func hold(
        _ reference: NodeReference, for options: NodeOptions, isReadOnly: Bool = false
    ) async throws(BlockError) -> NodeHold {
        let user = "node \(options.name ?? "without a name")"
        switch reference {
        case .existing(let name):
            let target = try await store.find(name)
            if case .node(let node) = target { try node.hold(for: user) }
            return NodeHold(target: target, user: user, isOwned: false)
        case .new(var below):
            below.isReadOnly = below.isReadOnly || isReadOnly || options.isReadOnly
            let node = try await open(below, owner: options.name ?? "")
            try node.hold(for: user)
            return NodeHold(target: .node(node), user: user, isOwned: true)
        }
    }

    /// The same for what is to be read or written.
    private mutating func use(
        _ reference: NodeReference, for options: NodeOptions
    ) async throws(BlockError) -> NodeHold {
        let hold = try await hold(reference, for: options)
        do throws(BlockError) { try await hold.activate() } catch {
            Self.release([hold])
            throw error
        }
        return hold
    }

    private static func release(_ holds: [NodeHold]) {
        for hold in holds {
            if case .node(let node) = hold.target { node.release(by: hold.user) }
        }
    }

    private static func volume(of hold: NodeHold) -> Volume? {
        switch hold.target {
        case .volume(let volume): volume
        case .node(let node): node.volume
        }
    }
}

extension NodeHold {
    fileprivate func activate() async throws(BlockError) {
        if case .node(let node) = target { try await node.activate() }
    }
}

extension GraphNode {
    /// The images of this node, if their backing is `other`.
    func imagesOver(_ other: GraphNode) -> ImageChain? {
        guard case .node(let node) = self, let images = node.images, images.standsOnOthers,
            node.below.last?.target.name == other.name
        else { return nil }
        return images
    }
}

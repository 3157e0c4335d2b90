package import Filters

/// How a node is to be opened: QEMU's `BlockdevOptions`, as far as they are understood here.
package struct NodeOptions: Sendable {
    /// Nil only for a node that stands under another.
    package var name: String?
    package var isReadOnly: Bool
    /// Whether a file that may not be written is opened for reading instead of not at all.
    package var mayBecomeReadOnly: Bool
    /// Whether the content of a file bypasses the host's page cache.
    package var isDirect: Bool
    /// Whether discards, and zeroes that may, give storage back.
    package var unmaps: Bool
    package var zeroDetection: ZeroDetection
    package var driver: NodeDriver

    package init(
        name: String? = nil, isReadOnly: Bool = false, mayBecomeReadOnly: Bool = false,
        isDirect: Bool = false, unmaps: Bool = false, zeroDetection: ZeroDetection = .off,
        driver: NodeDriver
    ) {
        self.name = name
        self.isReadOnly = isReadOnly
        self.mayBecomeReadOnly = mayBecomeReadOnly
        self.isDirect = isDirect
        self.unmaps = unmaps
        self.zeroDetection = zeroDetection
        self.driver = driver
    }
}

/// What becomes of written zeroes.
package enum ZeroDetection: String, Sendable, CaseIterable {
    /// They are data.
    case off
    /// They are stored as zeroes.
    case on
    /// They are, and may give storage back.
    case unmap
}

/// A node that another one stands on.
package indirect enum NodeReference: Sendable {
    /// A node, or a volume, that exists.
    case existing(String)
    /// One that is opened with it, and closed with it.
    case new(NodeOptions)
}

/// What a qcow2 image reads where it holds nothing.
package enum NodeBacking: Sendable {
    /// What its header names.
    case ofHeader
    /// Zeroes.
    case nothing
    case node(NodeReference)
}

/// What opens a node, with what that needs.
package enum NodeDriver: Sendable {
    /// A file of the host as it is.
    case file(path: String)
    /// The export of an NBD server.
    case nbd(uri: String)
    case raw(NodeReference)
    case qcow2(NodeReference, NodeBacking)
    case throttle(NodeReference, group: String)
    case copyOnRead(NodeReference)
    /// Old content goes to `target`; with `bitmap` of a volume only of what that has marked.
    case copyBeforeWrite(
        NodeReference, target: NodeReference, bitmap: (volume: String, name: String)?)
    /// What a copy-before-write node keeps.
    case snapshotAccess(NodeReference)
    case faultInjection(NodeReference, FaultRules)

    /// QEMU's name of it.
    package var name: String {
        switch self {
        case .file: "file"
        case .nbd: "nbd"
        case .raw: "raw"
        case .qcow2: "qcow2"
        case .throttle: "throttle"
        case .copyOnRead: "copy-on-read"
        case .copyBeforeWrite: "copy-before-write"
        case .snapshotAccess: "snapshot-access"
        case .faultInjection: "blkdebug"
        }
    }
}

import BlockCore
import Control
import Logging
import NBDServer
import Nodes
import Synchronization
import Volumes

/// A node of the block graph as NBD clients see it, with bitmaps of volumes that tell of its content.
final class NodeExport: AgentExport {
    /// A bitmap that is offered, which its volume has been told to hold.
    struct Bitmap: Sendable {
        let volume: Volume
        let name: String
    }

    let id: String
    let name: String
    let description: String
    let isReadOnly: Bool
    private let node: Node
    private let bitmaps: [Bitmap]
    private let connections = Atomic<Int>(0)
    private let failures: GuestFailures

    /// `node` is held for the user `user(id)` until the export is removed.
    init(
        _ node: Node, id: String, name: String, description: String?, isReadOnly: Bool,
        bitmaps: [Bitmap], events: QMPEventHub, log: Logger
    ) {
        self.node = node
        self.id = id
        self.name = name
        self.description = description ?? "node \(node.name)"
        self.isReadOnly = isReadOnly
        self.bitmaps = bitmaps
        failures = GuestFailures(volumeName: node.name, events: events, log: log)
    }

    /// Who holds the node of an export.
    static func user(_ id: String) -> String { "export \(id)" }

    var nodeName: String { node.name }
    var isPoint: Bool { false }
    var device: any BlockDevice { node }
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    /// A bitmap that may miss writes is not offered, nor one of another length.
    var bitmapNames: [String] {
        bitmaps.filter { bitmap in
            bitmap.volume.lengthBytes == node.lengthBytes
                && bitmap.volume.bitmapStatuses().contains {
                    $0.name == bitmap.name && $0.inconsistentReason == nil
                }
        }
        .map(\.name)
    }

    func dirtyRuns(
        bitmap name: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        guard let bitmap = bitmaps.first(where: { $0.name == name }) else {
            throw BlockError(.notFound, "find the bitmap \(name)", on: self.name)
        }
        return try bitmap.volume.dirtyRuns(ofBitmap: name, in: range, limit: limit).map {
            NBDDirtyRun(lengthBytes: $0.range.lengthBytes, isDirty: $0.isDirty)
        }
    }

    func connectionOpened() { connections.wrappingAdd(1, ordering: .relaxed) }

    func connectionClosed() { connections.wrappingSubtract(1, ordering: .relaxed) }

    func requestFailed(_ failure: NBDRequestFailure) { failures.report(failure) }

    func wasRemoved() async {
        for bitmap in bitmaps { bitmap.volume.releaseBitmaps([bitmap.name]) }
        node.release(by: Self.user(id))
    }
}

import BlockCore
import NBDServer
import Repository
import Synchronization

/// A restore point as NBD clients see it: read-only, opened from its repository.
final class PointExport: AgentExport {
    let id: String
    let name: String
    let description: String
    let nodeName: String
    let device: any BlockDevice
    private let connections = Atomic<Int>(0)

    /// `device` is what the repository opened; it is closed when the export was removed.
    init(
        _ device: any BlockDevice, point: FoundPoint, id: String, name: String?,
        description: String?
    ) {
        self.device = device
        self.id = id
        nodeName = point.id.text
        self.name = name ?? point.id.text
        let volume = point.summary.manifest?.volume.name ?? point.summary.folder
        self.description = description ?? "volume \(volume) at point \(point.id.text)"
    }

    var isPoint: Bool { true }
    var isReadOnly: Bool { true }
    var bitmapNames: [String] { [] }
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        throw BlockError(.notFound, "find the bitmap \(bitmap)", on: name)
    }

    func connectionOpened() { connections.wrappingAdd(1, ordering: .relaxed) }

    func connectionClosed() { connections.wrappingSubtract(1, ordering: .relaxed) }

    func wasRemoved() async { try? await device.close() }
}
